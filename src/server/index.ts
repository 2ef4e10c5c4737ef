/** Door of server/. */
export { startServer, type BridgeServer } from './server.js';

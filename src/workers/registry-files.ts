/** Entry of the threads that read model files whole, and what lies beside them. */
import { serveFileWork } from '../registry/index.js';

serveFileWork();

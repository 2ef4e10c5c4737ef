/** The server: one fastify app, one websocket hub, on one or several addresses. */
import { readFileSync } from 'node:fs';
import { lookup } from 'node:dns/promises';
import { createServer as createHttpServer, type IncomingMessage, type Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { WebSocketServer } from 'ws';
import type { Bridge } from '../bridge.js';
import { BridgeError, InvalidRequestError, messageOf, systemCodeOf } from '../common/errors.js';
import { answerBrokenRequest, answerExpectation } from './error-handler.js';
import { createApp } from './app.js';
import type { ServerContext } from './context.js';
import { DIALECTS } from './dialect.js';
import { findFrontEnd } from './front-end.js';
import { checkRequest, isLoopbackName, queryOf, type GuardOptions } from './guard.js';
import { Hub } from './hub.js';
import { serverFeatures } from './routes/system.js';
import { UserFolders } from './user-folders.js';

export interface BridgeServer extends AsyncDisposable {
  /** `http://127.0.0.1:8189` */
  readonly url: string;
  readonly port: number;
}

/** ComfyUI's limit of an incoming websocket message. */
const MAX_WS_MESSAGE_BYTES = 4 * 1024 * 1024;

/** Idle time after which the system itself asks whether a websocket's peer is still there. */
const KEEP_ALIVE_MS = 60_000;

/**
 * Starts to listen.
 *
 * @throws {BridgeError} `PORT_IN_USE`; {InvalidRequestError} when a token is missing where one is needed.
 */
export async function startServer(bridge: Bridge): Promise<BridgeServer> {
  const { config, logger, queue, nodeCalls } = bridge;
  const addresses = config.listen.split(',').map((address) => address.trim());
  const isLoopbackOnly = (await Promise.all(addresses.map(isLoopbackAddress))).every(Boolean);
  if (!isLoopbackOnly && config.token === undefined) {
    throw new InvalidRequestError(
      `Listening on ${config.listen} lets other machines in: protect it with --token TEXT.`,
    );
  }
  const guard: GuardOptions = {
    token: config.token,
    allowedHosts: config.allowedHost,
    isLoopbackOnly,
    isCorsEnabled: config.enableCorsHeader !== undefined,
  };
  const { installation, paths } = bridge;
  const bases = [...(installation === undefined ? [] : [installation.root]), paths.baseDirectory];
  const frontEnd = await findFrontEnd(config.frontEndRoot, [...new Set(bases)]);
  const users = await UserFolders.open(bridge.directories.user, config.multiUser, logger);
  const hub = new Hub({
    queueRemaining: () => queue.remaining,
    runningNode: (clientId) => queue.runningNode(clientId),
    features: () => serverFeatures(bridge),
    logger,
  });
  const deliver = hub.deliver.bind(hub);
  const subscriptions = [queue.subscribe(deliver), nodeCalls.subscribe(deliver)];
  subscriptions.push(
    bridge.logs.subscribe((entry) => {
      hub.deliverLog(entry);
    }),
  );
  subscriptions.push(
    bridge.registry.subscribe((progress) => {
      hub.deliverScan({ ...progress });
    }),
  );
  const context: ServerContext = {
    bridge,
    hub,
    dialect: DIALECTS[config.dialect],
    users,
    frontEnd,
  };
  const app = await createApp(context, guard);
  const websockets = new WebSocketServer({ noServer: true, maxPayload: MAX_WS_MESSAGE_BYTES });
  const servers: Server[] = [];
  const closeAll = async (): Promise<void> => {
    for (const unsubscribe of subscriptions) unsubscribe();
    hub.close();
    await Promise.all(servers.map(closeServer));
    await app.close();
  };

  let port = config.port;
  try {
    for (const address of addresses) {
      const server = createListener(bridge, app);
      servers.push(server);
      server.on('upgrade', (request, socket, head) => {
        upgrade(request, socket, head, { websockets, hub, guard });
      });
      await listen(server, address, port);
      // Further addresses share the port that a free one was found at.
      port = (server.address() as AddressInfo).port;
    }
  } catch (error) {
    await closeAll();
    throw error;
  }
  const [first = '127.0.0.1'] = addresses;
  const host =
    first === '0.0.0.0' ? '127.0.0.1' : first === '::' ? '[::1]' : first.includes(':') ? `[${first}]` : first;
  const url = `${config.tlsKeyfile === undefined ? 'http' : 'https'}://${host}:${port}`;
  bridge.resume();
  logger.info({ url }, 'listening');
  let closing: Promise<void> | undefined;
  return { url, port, [Symbol.asyncDispose]: () => (closing ??= closeAll()) };
}

function createListener({ config }: Bridge, app: FastifyInstance): Server {
  const answer = (request: IncomingMessage, response: Parameters<FastifyInstance['routing']>[1]): void => {
    app.routing(request, response);
  };
  const { tlsKeyfile: key, tlsCertfile: cert } = config;
  const server =
    key === undefined || cert === undefined
      ? createHttpServer(answer)
      : createHttpsServer({ key: readFileSync(key), cert: readFileSync(cert) }, answer);
  server.on('clientError', answerBrokenRequest);
  server.on('checkExpectation', answerExpectation);
  return server;
}

interface UpgradeContext {
  readonly websockets: WebSocketServer;
  readonly hub: Hub;
  readonly guard: GuardOptions;
}

function upgrade(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  { websockets, hub, guard }: UpgradeContext,
): void {
  // A peer that resets the connection during the handshake is no reason to stop.
  socket.on('error', () => {
    socket.destroy();
  });
  request.socket.setKeepAlive(true, KEEP_ALIVE_MS);
  const path = (request.url ?? '/').replace(/[?#].*$/, '');
  const refusal = checkRequest(request, guard);
  const status = refusal?.status ?? (path === '/ws' || path === '/api/ws' ? undefined : 404);
  if (status !== undefined) {
    socket.end(`HTTP/1.1 ${status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    return;
  }
  websockets.handleUpgrade(request, socket, head, (websocket) => {
    hub.connect(websocket, queryOf(request).get('clientId') ?? undefined);
  });
}

async function listen(server: Server, address: string, port: number): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, address, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    if (systemCodeOf(error) === 'EADDRINUSE') {
      throw new BridgeError(
        'PORT_IN_USE',
        `Port ${port} on ${address} is taken: is Vision Bridge running already? Stop it, or choose another port with --port.`,
        {
          cause: error,
          details: { address, port },
        },
      );
    }
    throw new BridgeError('INVALID_REQUEST', `Cannot listen on ${address}:${port}: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}

async function closeServer(server: Server): Promise<void> {
  if (!server.listening) return;
  await new Promise<void>((resolve) => {
    server.close(() => {
      resolve();
    });
    server.closeAllConnections();
  });
}

async function isLoopbackAddress(address: string): Promise<boolean> {
  if (isLoopbackName(address)) return true;
  try {
    return (await lookup(address, { all: true })).every((entry) => isLoopbackName(entry.address));
  } catch {
    return false;
  }
}

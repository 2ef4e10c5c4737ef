/** Websocket clients that do not read, do not answer, or come too many. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import WebSocket, { WebSocketServer } from 'ws';
import { silentLogger } from '../../../src/common/logger.js';
import { Hub, type HubLimits } from '../../../src/server/hub.js';

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

async function startHub(limits: Partial<HubLimits>): Promise<{ hub: Hub; port: number }> {
  const hub = new Hub({
    queueRemaining: () => 0,
    runningNode: () => undefined,
    features: () => ({}),
    logger: silentLogger,
    limits,
  });
  const server = createServer();
  const websockets = new WebSocketServer({ server });
  websockets.on('connection', (socket, request) => {
    hub.connect(socket, new URL(request.url ?? '', 'http://localhost').searchParams.get('clientId') ?? undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    hub.close();
    websockets.close();
    server.closeAllConnections();
    server.close();
  });
  return { hub, port: (server.address() as AddressInfo).port };
}

/** A client that shakes hands and then reads nothing, nor answers pings. */
async function connectMute(port: number, clientId: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(
    `GET /ws?clientId=${clientId} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  await once(socket, 'data');
  socket.pause();
  closers.push(() => socket.destroy());
  return socket;
}

const connectClient = async (port: number, clientId: string): Promise<{ socket: WebSocket; messages: string[] }> => {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws?clientId=${clientId}`);
  const messages: string[] = [];
  socket.on('message', (data: Buffer) => messages.push(data.toString()));
  await once(socket, 'message');
  closers.push(() => {
    socket.terminate();
  });
  return { socket, messages };
};

describe('Hub', () => {
  it('drops a client that does not read, and others get every event in order meanwhile', async () => {
    const { hub, port } = await startHub({ maxBufferedBytes: 1_000_000 });
    await connectMute(port, 'mute');
    const { messages } = await connectClient(port, 'reader');
    const filler = 'x'.repeat(10_000);
    const count = 3000; // 30 MB: more than the system's own buffers take
    for (let i = 0; i < count; i += 1) {
      hub.deliver({ kind: 'json', to: undefined, type: 'status', data: { i, filler } });
      // The reader shares this thread: it is given its turn, or it would look like one that does not read.
      if (i % 50 === 0) while (messages.length < i) await new Promise((resolve) => setImmediate(resolve));
    }
    await expect.poll(() => messages.length, { timeout: 10_000 }).toBe(count + 1);
    const order = messages.slice(1).map((text) => (JSON.parse(text) as { data: { i: number } }).data.i);
    expect(order).toEqual(Array.from({ length: count }, (_none, i) => i));
    await expect.poll(() => hub.size).toBe(1);
  });

  it('drops a client that does not answer pings, and keeps one that does', async () => {
    const { hub, port } = await startHub({ pingIntervalMs: 20, silenceMs: 150 });
    await connectMute(port, 'mute');
    const { socket } = await connectClient(port, 'quiet');
    expect(hub.size).toBe(2);
    await expect.poll(() => hub.size, { timeout: 3000 }).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 400));
    expect([hub.size, socket.readyState]).toEqual([1, WebSocket.OPEN]);
  });

  it('closes a replaced socket although it does not answer', async () => {
    const { hub, port } = await startHub({ pingIntervalMs: 20 });
    const mute = await connectMute(port, 'same');
    const { messages } = await connectClient(port, 'same');
    const closed = once(mute, 'close');
    mute.resume();
    await closed;
    hub.deliver({ kind: 'json', to: 'same', type: 'status', data: {} });
    await expect.poll(() => messages.length).toBe(2);
  });

  it('refuses clients beyond its limit', async () => {
    const { hub, port } = await startHub({ maxClients: 1 });
    await connectClient(port, 'one');
    const second = new WebSocket(`ws://127.0.0.1:${port}/ws?clientId=two`);
    const [code] = (await once(second, 'close')) as [number];
    expect([code, hub.size]).toEqual([1013, 1]);
  });
});

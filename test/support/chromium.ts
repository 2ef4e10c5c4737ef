/** A headless Chromium, driven over its own debugging protocol: enough for a page of ours, without a browser package. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import WebSocket from 'ws';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'chrome'];
const START_WAIT_MS = 20_000;
const POLL_MS = 50;

export function findChromium(): string | undefined {
  return NAMES.find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0);
}

/** What assistive technology sees of an element. */
interface AccessibleNode {
  readonly role: string;
  readonly name: string;
}

export interface Page extends AsyncDisposable {
  /** Value of an expression in the page; promises are waited for. */
  evaluate(expression: string): Promise<unknown>;
  /** Waits until an expression is true. */
  waitFor(expression: string): Promise<void>;
  press(key: string): Promise<void>;
  setDark(isDark: boolean): Promise<void>;
  screenshot(): Promise<Buffer>;
  accessibleNodes(): Promise<AccessibleNode[]>;
  /** Errors and warnings of the console so far. */
  readonly complaints: string[];
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export async function openPage(executable: string, url: string, width: number, height: number): Promise<Page> {
  const profile = await mkdtemp(join(tmpdir(), 'vision-bridge-chromium-'));
  const flags = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--no-first-run',
    '--remote-debugging-port=0',
    `--user-data-dir=${profile}`,
    `--window-size=${width},${height}`,
  ];
  const browser = spawn(executable, [...flags, 'about:blank'], { stdio: 'ignore' });
  const socket = new WebSocket(await debuggerOf(profile));
  await once(socket, 'open');
  const waiting = new Map<number, (message: Message) => void>();
  const complaints: string[] = [];
  socket.on('message', (data: Buffer) => {
    const message = JSON.parse(data.toString()) as Message;
    if (message.id !== undefined) waiting.get(message.id)?.(message);
    else if (message.method === 'Runtime.exceptionThrown' || message.method === 'Log.entryAdded')
      complaints.push(JSON.stringify(message.params));
  });
  let last = 0;
  const send = async (method: string, params: object = {}): Promise<Record<string, unknown>> => {
    const id = (last += 1);
    const answer = new Promise<Message>((resolve) => waiting.set(id, resolve));
    socket.send(JSON.stringify({ id, method, params }));
    const { result, error } = await answer;
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  };
  for (const domain of ['Runtime', 'Page', 'Log', 'Accessibility']) await send(`${domain}.enable`);
  await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
  await send('Page.navigate', { url });

  const evaluate = async (expression: string): Promise<unknown> => {
    const { result, exceptionDetails } = await send('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value?: unknown }).value;
  };
  return {
    complaints,
    evaluate,
    async waitFor(expression) {
      const end = Date.now() + START_WAIT_MS;
      while ((await evaluate(expression)) !== true) {
        if (Date.now() > end) throw new Error(`never true: ${expression}\n${complaints.join('\n')}`);
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    },
    async press(key) {
      const code = key === 'Enter' ? { text: '\r', windowsVirtualKeyCode: 13 } : { windowsVirtualKeyCode: 9 };
      await send('Input.dispatchKeyEvent', { type: 'keyDown', key, code: key, ...code });
      await send('Input.dispatchKeyEvent', { type: 'keyUp', key, code: key, ...code });
    },
    async setDark(isDark) {
      await evaluate(`document.documentElement.classList.toggle('dark', ${isDark})`);
    },
    async screenshot() {
      const { data } = await send('Page.captureScreenshot', { format: 'png' });
      return Buffer.from(String(data), 'base64');
    },
    async accessibleNodes() {
      const { nodes } = await send('Accessibility.getFullAXTree');
      return (nodes as { ignored: boolean; role?: { value: string }; name?: { value: string } }[])
        .filter(({ ignored }) => !ignored)
        .map(({ role, name }) => ({ role: role?.value ?? '', name: name?.value ?? '' }));
    },
    async [Symbol.asyncDispose]() {
      socket.close();
      await end(browser);
      await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}

/** The address of the page's debugger, once the browser has written down its port. */
async function debuggerOf(profile: string): Promise<string> {
  const giveUp = Date.now() + START_WAIT_MS;
  for (;;) {
    try {
      const [port] = (await readFile(join(profile, 'DevToolsActivePort'), 'utf8')).split('\n');
      const targets = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as {
        type: string;
        webSocketDebuggerUrl: string;
      }[];
      const page = targets.find(({ type }) => type === 'page');
      if (page !== undefined) return page.webSocketDebuggerUrl;
    } catch (error) {
      if (Date.now() > giveUp) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function end(browser: ChildProcess): Promise<void> {
  if (browser.exitCode !== null) return;
  const ended = once(browser, 'exit');
  browser.kill('SIGTERM');
  await ended;
}

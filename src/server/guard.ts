/**
 * Who may talk to us: decided before routing, for HTTP and websocket upgrades alike.
 *
 * ComfyUI's own rule (a loopback Host must match its Origin), and beyond it: `Origin: null` is refused; a Host that is
 * not loopback is refused while we are bound to loopback (DNS rebinding), unless it is allowed by name; a request that a
 * page of another site makes is refused, except following a link to the index page; and with a token, every request must
 * carry it.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** Holds the token for the pages of a front end, which cannot set headers on every file they load. */
export const TOKEN_COOKIE = 'vision_bridge_token';

export interface GuardOptions {
  readonly token: string | undefined;
  readonly allowedHosts: readonly string[];
  /** Bound to loopback addresses only. */
  readonly isLoopbackOnly: boolean;
  /** With CORS on, ComfyUI drops the origin check, and so do we. */
  readonly isCorsEnabled: boolean;
}

export interface Refusal {
  readonly status: 401 | 403;
  readonly reason: string;
}

/** Why a request is refused; undefined lets it pass. */
export function checkRequest(request: IncomingMessage, options: GuardOptions): Refusal | undefined {
  const host = parseAuthority(request.headers.host?.toLowerCase() ?? '');
  const isAllowedHost = options.allowedHosts.some((name) => name.toLowerCase() === host.name);
  if (options.isLoopbackOnly && host.name !== '' && !isLoopbackName(host.name) && !isAllowedHost) {
    return {
      status: 403,
      reason: `The Host ${host.name} is not this machine's loopback; allow it with --allowed-host ${host.name}.`,
    };
  }
  const { origin, 'sec-fetch-site': site } = request.headers;
  if (!options.isCorsEnabled && site === 'cross-site' && !isNavigationToIndex(request))
    return { status: 403, reason: 'Requests that a page of another site makes are refused.' };
  if (!options.isCorsEnabled && origin !== undefined && isLoopbackName(host.name)) {
    if (origin.toLowerCase() === 'null') return { status: 403, reason: 'Requests with Origin: null are refused.' };
    if (!originMatches(origin.toLowerCase(), host)) return { status: 403, reason: 'Host and Origin differ.' };
  }
  if (options.token !== undefined && !carriesToken(request, options.token)) {
    return { status: 401, reason: 'A token is needed: send "Authorization: Bearer TOKEN", or ?token= for websockets.' };
  }
  return undefined;
}

/** Following a link to `/` from another site shows a page and changes nothing. */
function isNavigationToIndex(request: IncomingMessage): boolean {
  const { 'sec-fetch-mode': mode, 'sec-fetch-dest': destination } = request.headers;
  const path = (request.url ?? '/').replace(/[?#].*$/, '');
  return request.method === 'GET' && mode === 'navigate' && destination === 'document' && path === '/';
}

interface Authority {
  readonly name: string;
  readonly port: string;
}

function parseAuthority(text: string): Authority {
  const bracketed = /^\[([^\]]*)\](?::(\d+))?$/.exec(text);
  if (bracketed !== null) return { name: bracketed[1] ?? '', port: bracketed[2] ?? '' };
  const [name = '', port = ''] = text.split(':');
  return { name, port };
}

/** A literal loopback address, or the one name that means it everywhere. */
export function isLoopbackName(name: string): boolean {
  return name === 'localhost' || name === '::1' || /^127(?:\.\d{1,3}){3}$/.test(name);
}

/** ComfyUI's comparison: the scheme does not matter, and a port counts only where both have one. */
function originMatches(origin: string, host: Authority): boolean {
  const authority = parseAuthority(origin.replace(/^[a-z][a-z0-9+.-]*:\/\//, '').replace(/\/.*$/, ''));
  if (authority.name === '' || host.name === '') return true;
  if (authority.name !== host.name) return false;
  return authority.port === '' || host.port === '' || authority.port === host.port;
}

function carriesToken(request: IncomingMessage, token: string): boolean {
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
  const query = queryOf(request).get('token');
  const cookie = new RegExp(`(?:^|;\\s*)${TOKEN_COOKIE}=([^;]*)`).exec(request.headers.cookie ?? '')?.[1];
  return [bearer, query, cookie === undefined ? undefined : decoded(cookie)].some(
    (given) => typeof given === 'string' && equalInConstantTime(given, token),
  );
}

/** Parameters of a request, read without `new URL`, which throws on targets such as `//`. */
export function queryOf(request: IncomingMessage): URLSearchParams {
  const target = request.url ?? '';
  const at = target.indexOf('?');
  return new URLSearchParams(at === -1 ? '' : target.slice(at + 1));
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function equalInConstantTime(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/**
 * Users and their folders: one user called `default`, or with --multi-user those of users.json.
 *
 * A user's folder is `<user directory>/<id>`; names in it are contained as text, and links that lead out of it are not
 * followed. Files are replaced whole, so that a crash leaves the old or the new one.
 *
 * Source: comfyui-protocol, "Users, settings, userdata".
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import type { FastifyRequest } from 'fastify';
import * as z from 'zod';
import { InvalidRequestError, messageOf, systemCodeOf } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import { resolveInside } from '../paths/index.js';

const DEFAULT_USER = 'default';
const MAX_USERS = 10_000;
const MAX_NAME_LENGTH = 200;
const usersSchema = z.record(z.string(), z.string());

export class UserFolders {
  readonly #directory: string;
  readonly #isMultiUser: boolean;
  readonly #users: Map<string, string>;

  private constructor(directory: string, isMultiUser: boolean, users: Map<string, string>) {
    this.#directory = directory;
    this.#isMultiUser = isMultiUser;
    this.#users = users;
  }

  /** Makes the folder of the one user; reads users.json, of which a broken one counts as absent and is left alone. */
  static async open(directory: string, isMultiUser: boolean, logger: Logger): Promise<UserFolders> {
    if (!isMultiUser) {
      await mkdir(join(directory, DEFAULT_USER), { recursive: true });
      return new UserFolders(directory, false, new Map([[DEFAULT_USER, DEFAULT_USER]]));
    }
    const file = join(directory, 'users.json');
    let users: Record<string, string> = {};
    try {
      users = usersSchema.parse(JSON.parse(await readFile(file, 'utf8')));
    } catch (error) {
      if (systemCodeOf(error) !== 'ENOENT') {
        await rename(file, `${file}.broken-${Date.now()}`);
        logger.warn({ file, reason: messageOf(error) }, 'users.json is broken; it was moved aside and begun anew');
      }
    }
    return new UserFolders(directory, true, new Map(Object.entries(users)));
  }

  get isMultiUser(): boolean {
    return this.#isMultiUser;
  }

  /** Id to name. */
  get users(): ReadonlyMap<string, string> {
    return this.#users;
  }

  /** The folder of the user of a request; undefined for a user that is not known. */
  rootOf(request: FastifyRequest): string | undefined {
    const given = request.headers['comfy-user'];
    const id = this.#isMultiUser && typeof given === 'string' ? given : DEFAULT_USER;
    // Ids come from our own file, which people may edit: a name that leaves the folder is no user.
    return this.#users.has(id) && id !== '' && basename(id) === id ? resolveInside(this.#directory, id) : undefined;
  }

  hasName(name: string): boolean {
    return [...this.#users.values()].includes(name);
  }

  /** @returns the new user's id @throws {InvalidRequestError} for a name that cannot be one */
  async add(name: string): Promise<string> {
    const trimmed = name.trim();
    if (trimmed === '' || trimmed.length > MAX_NAME_LENGTH)
      throw new InvalidRequestError(`"username" has 1 to ${MAX_NAME_LENGTH} characters that are not blank.`);
    if (this.#users.size >= MAX_USERS) throw new InvalidRequestError(`There are ${MAX_USERS} users already.`);
    const id = `${trimmed.replaceAll(/[^a-zA-Z0-9\-_]+/g, '-')}_${randomUUID()}`;
    this.#users.set(id, trimmed);
    await mkdir(this.#directory, { recursive: true });
    await replaceFile(join(this.#directory, 'users.json'), JSON.stringify(Object.fromEntries(this.#users)));
    return id;
  }
}

/**
 * The absolute path of a file of a user; undefined when the name, or a link on its way, leads out of the folder.
 *
 * @param name A second level of percent-encoding is decoded, as in ComfyUI.
 */
export async function userFilePath(root: string, name: string): Promise<string | undefined> {
  const path = resolveInside(root, decodeAgain(name));
  return path !== undefined && (await staysInside(root, path)) ? path : undefined;
}

function decodeAgain(name: string): string {
  if (!name.includes('%')) return name;
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // a lone % is a character of the name
  }
}

/** Whether the nearest part of a path that exists is inside the folder with all links followed. */
async function staysInside(root: string, path: string): Promise<boolean> {
  let realRoot: string;
  try {
    realRoot = await realpath(root);
  } catch {
    return true; // no folder yet, so no links in it
  }
  for (let at = path; ; at = dirname(at)) {
    try {
      const inside = relative(realRoot, await realpath(at));
      return inside !== '..' && !inside.startsWith(`..${sep}`);
    } catch (error) {
      if (systemCodeOf(error) !== 'ENOENT' || at === dirname(at)) return false;
    }
  }
}

/** Writes a file whole or not at all. */
export async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  const draft = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomUUID()}.part`);
  try {
    await writeFile(draft, content, { flag: 'wx' });
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

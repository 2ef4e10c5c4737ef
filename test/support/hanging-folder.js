/**
 * Makes a folder hang, as one of a network whose server is gone: every call of the system about it waits for ever, in the
 * kernel, where nothing can end the wait. Loaded into a process and its threads by NODE_OPTIONS.
 *
 * The wait is that of a reader of a pipe that nobody writes into: HANGING_PIPE, for paths at and below HANGING_FOLDER.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const { HANGING_FOLDER: folder = '', HANGING_PIPE: pipe = '' } = process.env;
const { openSync, promises } = fs;
const openLater = promises.open;
const isInside = (path) => typeof path === 'string' && (path === folder || path.startsWith(`${folder}/`));

for (const name of ['readdirSync', 'statSync', 'lstatSync', 'openSync', 'existsSync', 'realpathSync', 'accessSync']) {
  const call = fs[name];
  fs[name] = Object.assign((...args) => (isInside(args[0]) ? openSync(pipe, 'r') : call(...args)), call);
}
for (const name of ['readdir', 'stat', 'lstat', 'open', 'access', 'realpath', 'readFile']) {
  const call = promises[name];
  promises[name] = (...args) => (isInside(args[0]) ? openLater(pipe, 'r') : call(...args));
}
/** The system's table of mounts has the folder, as a disk of the network. */
const { readFileSync, watch } = fs;
fs.readFileSync = (...args) => {
  const content = readFileSync(...args);
  return args[0] === '/proc/self/mounts' ? `${content}gone:/models ${folder} nfs4 rw,hard 0 0\n` : content;
};
fs.watch = (...args) => (isInside(args[0]) ? openSync(pipe, 'r') : watch(...args));
syncBuiltinESMExports();

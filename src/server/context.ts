/** What routes are handed. */
import type { Bridge } from '../bridge.js';
import type { Dialect } from './dialect.js';
import type { FrontEnd } from './front-end.js';
import type { Hub } from './hub.js';
import type { UserFolders } from './user-folders.js';

export interface ServerContext {
  readonly bridge: Bridge;
  readonly dialect: Dialect;
  readonly hub: Pick<Hub, 'setLogSubscription' | 'size'>;
  readonly users: UserFolders;
  readonly frontEnd: FrontEnd;
}

/**
 * The two versions of ComfyUI's protocol that are spoken, as far as routes differ.
 *
 * Source: comfyui-protocol, "What changed after 0.3.64". What differs in validation is in graph/.
 */
import type { BridgeConfig } from '../config.js';

export interface Dialect {
  readonly comfyuiVersion: string;
  /** What that version's requirements name; null where it is not known. */
  readonly requiredFrontendVersion: string | null;
  readonly requiredTemplatesVersion: string | null;
  /** `os` of system_stats as Python's `sys.platform`, rather than `os.name`. */
  readonly namesPlatform: boolean;
  /** Times of user files in whole milliseconds, rather than seconds with a fraction. */
  readonly hasMillisecondTimes: boolean;
  /** User files are sent as attachments, `user.css` excepted. */
  readonly sendsAttachments: boolean;
  /** Routes of assets, which say that they are switched off. */
  readonly hasAssetRoutes: boolean;
  /** Fields of object_info that came later. */
  readonly hasNewerNodeFields: boolean;
  /** `Cache-Control` of scripts, styles and index pages. */
  readonly scriptCaching: 'no-cache' | 'no-store';
  readonly corsMethods: string;
}

export const DIALECTS: Readonly<Record<BridgeConfig['dialect'], Dialect>> = {
  '0.3.64': {
    comfyuiVersion: '0.3.64',
    requiredFrontendVersion: '1.27.10',
    requiredTemplatesVersion: '0.1.95',
    namesPlatform: false,
    hasMillisecondTimes: false,
    sendsAttachments: false,
    hasAssetRoutes: false,
    hasNewerNodeFields: false,
    scriptCaching: 'no-cache',
    corsMethods: 'POST, GET, DELETE, PUT, OPTIONS',
  },
  latest: {
    comfyuiVersion: '0.38.0',
    requiredFrontendVersion: null,
    requiredTemplatesVersion: null,
    namesPlatform: true,
    hasMillisecondTimes: true,
    sendsAttachments: true,
    hasAssetRoutes: true,
    hasNewerNodeFields: true,
    scriptCaching: 'no-store',
    corsMethods: 'POST, GET, DELETE, PUT, OPTIONS, PATCH',
  },
};

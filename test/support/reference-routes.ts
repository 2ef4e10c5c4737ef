/**
 * Every route of ComfyUI's protocol: those of 0.3.64, and those that came later and are on in both dialects.
 *
 * Source: comfyui-protocol, "Route table", "What changed after 0.3.64". `once` marks paths without a twin below /api.
 */
export interface ReferenceRoute {
  readonly method: 'GET' | 'POST' | 'DELETE' | 'PATCH';
  /** As a client would ask, with names filled in. */
  readonly path: string;
  readonly once?: true;
}

const get = (...paths: string[]): ReferenceRoute[] => paths.map((path) => ({ method: 'GET', path }));
const post = (...paths: string[]): ReferenceRoute[] => paths.map((path) => ({ method: 'POST', path }));
const once = (routes: readonly ReferenceRoute[]): ReferenceRoute[] => routes.map((route) => ({ ...route, once: true }));

export const REFERENCE_ROUTES: readonly ReferenceRoute[] = [
  ...get('/ws', '/prompt', '/queue', '/history', '/history/id'),
  ...post('/prompt', '/queue', '/history', '/interrupt', '/free'),
  ...get('/object_info', '/object_info/LoadImage', '/features', '/system_stats'),
  ...post('/upload/image', '/upload/mask'),
  ...get('/view', '/view_metadata/clip_vision', '/embeddings', '/models', '/models/clip_vision'),
  ...get(
    '/experiment/models',
    '/experiment/models/clip_vision',
    '/experiment/models/preview/clip_vision/0/sub/x.safetensors',
  ),
  ...get('/extensions', '/i18n', '/workflow_templates', '/users', '/settings', '/settings/a.b'),
  ...post('/users', '/settings', '/settings/a.b'),
  ...get('/userdata', '/v2/userdata', '/userdata/a%2Fb.json'),
  ...post('/userdata/a%2Fb.json', '/userdata/a%2Fb.json/move/c.json'),
  { method: 'DELETE', path: '/userdata/a%2Fb.json' },
  ...get('/node_replacements', '/global_subgraphs', '/global_subgraphs/id'),
  ...get('/api/jobs', '/api/jobs/id'),
  ...post('/api/jobs/cancel', '/api/jobs/id/cancel'),
  ...once(get('/', '/api/', '/api/workflow_templates/pack/file.json')),
  ...once(get('/internal/logs', '/internal/logs/raw', '/internal/folder_paths', '/internal/files/input')),
  { method: 'PATCH', path: '/internal/logs/subscribe', once: true },
];

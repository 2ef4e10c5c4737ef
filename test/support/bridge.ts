/** A real server over a throw-away ComfyUI tree, for end-to-end tests. */
import { createBridge, type Bridge } from '../../src/bridge.js';
import { createDemoTree, type DemoTree } from '../../src/cli/demo/tree.js';
import { encodeWorkflow as demoWorkflow } from '../../src/cli/demo/workflow.js';
import { silentLogger } from '../../src/common/logger.js';
import { parseConfig } from '../../src/config.js';
import { startServer, type BridgeServer } from '../../src/server/index.js';

export interface TestBridge extends AsyncDisposable {
  readonly tree: DemoTree;
  readonly bridge: Bridge;
  readonly server: BridgeServer;
  readonly url: string;
  /** `127.0.0.1:port`, as clients of ComfyUI want it. */
  readonly host: string;
}

export async function startTestBridge(flags: Readonly<Record<string, unknown>> = {}): Promise<TestBridge> {
  const tree = await createDemoTree();
  const bridge = await createBridge(
    parseConfig({ comfyui: tree.root, dataDirectory: tree.dataDirectory, port: 0, ...flags }),
    silentLogger,
  );
  const server = await startServer(bridge);
  return {
    tree,
    bridge,
    server,
    url: server.url,
    host: new URL(server.url).host,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await bridge[Symbol.asyncDispose]();
      await tree[Symbol.asyncDispose]();
    },
  };
}

/** The workflow of the demo. */
export function encodeWorkflow(image: string, model = 'CLIP-ViT-H-demo.safetensors'): ReturnType<typeof demoWorkflow> {
  return demoWorkflow(image, model);
}

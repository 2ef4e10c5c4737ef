/** From TypeScript source, child processes and threads need the loader that runs their parent. */
/** Arguments for Node with which a child process can run this entry. */
export function loaderArguments(entry: URL): string[] {
  return isTypeScript(entry) ? ['--import', import.meta.resolve('tsx')] : [];
}

/** The same for a thread, where tsx has to be told to register itself. */
export function threadLoaderArguments(entry: URL): string[] {
  if (!isTypeScript(entry)) return [];
  const code = `import { register } from ${JSON.stringify(import.meta.resolve('tsx/esm/api'))}; register();`;
  return ['--import', `data:text/javascript,${encodeURIComponent(code)}`];
}

function isTypeScript({ pathname }: URL): boolean {
  return pathname.endsWith('.ts');
}

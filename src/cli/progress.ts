/** What a person sees while an encoder gets ready: on stderr, so that results can be piped. */
import { SingleBar } from 'cli-progress';
import type { Progress } from '../runtime/index.js';
import type { VisionModel } from '../vision/index.js';

export interface ProgressDisplay {
  readonly show: (progress: Progress) => void;
  /** Leaves the terminal as it was. */
  readonly end: () => void;
}

export function createProgress({ family, path }: VisionModel): ProgressDisplay {
  let bar: SingleBar | undefined;
  const end = (): void => {
    bar?.stop();
    bar = undefined;
  };
  return {
    end,
    show(progress) {
      if (progress.stage === 'quantizing') {
        // Off a terminal a bar would be a page of lines.
        if (bar === undefined && process.stderr.isTTY) {
          bar = new SingleBar({
            format: `quantising ${family} to int8, once |{bar}| {percentage}%`,
            stream: process.stderr,
          });
          bar.start(progress.total, 0);
        } else if (progress.done === 1) process.stderr.write(`quantising ${family} to int8, once …\n`);
        bar?.setTotal(progress.total);
        bar?.update(progress.done);
        return;
      }
      end();
      if (progress.stage === 'loading') process.stderr.write(`loading ${family} from ${path} …\n`);
    },
  };
}

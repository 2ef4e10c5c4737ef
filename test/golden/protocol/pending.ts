/** Recordings that do not replay yet, each with what is missing. One that replays after all fails, until its line goes. */
export const PENDING: Readonly<Record<string, string>> = {
  'flags-upload-limit': 'the replayer does not make bodies of the length that the recording states',
};

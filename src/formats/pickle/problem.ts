/** Why a pickle is refused, without the file's name: the caller adds it. */
export class PickleProblem extends Error {}

/** The bytes end before the pickle does. */
export class PickleEndedEarly extends PickleProblem {}

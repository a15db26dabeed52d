/** A flag that is wrong, or one that lacks its companion: exit status 2. Its message is one line that says what to give. */
export class UsageError extends Error {}

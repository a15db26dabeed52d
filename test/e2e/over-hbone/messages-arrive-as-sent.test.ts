/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../messages-arrive-as-sent.test.ts');

/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../connections-end-with-certificates.test.ts');

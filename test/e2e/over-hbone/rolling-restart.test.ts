/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../rolling-restart.test.ts');

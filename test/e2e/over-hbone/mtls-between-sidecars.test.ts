/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../mtls-between-sidecars.test.ts');

/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../identity-reaches-the-app.test.ts');

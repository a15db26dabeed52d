/** The same over HBONE. */
process.env.OARLOCK_TEST_OVER = 'hbone';
await import('../threads-share-the-work.test.ts');

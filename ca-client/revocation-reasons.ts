/** Why a certificate may be revoked, as CRLs say it. */

/** The reasons that may be given (RFC 5280 §5.3.1), with their numbers; those about other kinds of CRLs are left out. */
export const REVOCATION_REASONS: Readonly<Record<string, number>> = {
  keyCompromise: 1,
  affiliationChanged: 3,
  superseded: 4,
  cessationOfOperation: 5,
  privilegeWithdrawn: 9,
};

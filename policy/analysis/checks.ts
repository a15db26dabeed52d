/** The list of all checks of security policies. */
import { providersOnTcp, severalProviders, unknownProviders } from './custom.ts';
import { httpValues } from './http-values.ts';
import { principalForms, trustDomains, unknownIdentities } from './identities.ts';
import { httpOnTcp, identityOnPlaintext } from './layers.ts';
import { mtlsPorts, peerConflicts, rootSelectors } from './peer-authentications.ts';
import { notEnforced, policyPorts, selectors } from './scopes.ts';
import type { PolicyCheck } from './set.ts';
import { shadowedRules } from './shadow.ts';
import { tokensNotDemanded, tokensNotVerified } from './tokens.ts';

export const policyChecks: readonly PolicyCheck[] = [
  selectors,
  notEnforced,
  rootSelectors,
  peerConflicts,
  mtlsPorts,
  policyPorts,
  principalForms,
  trustDomains,
  unknownIdentities,
  httpOnTcp,
  identityOnPlaintext,
  httpValues,
  tokensNotVerified,
  tokensNotDemanded,
  unknownProviders,
  severalProviders,
  providersOnTcp,
  shadowedRules,
];

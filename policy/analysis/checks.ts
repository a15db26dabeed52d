/** The list of all checks of security policies. */
import { providersOnTcp, severalProviders, unknownProviders } from './custom.ts';
import { httpValues } from './http-values.ts';
import { principalForms, trustDomains, unknownIdentities } from './identities.ts';
import { httpOnTcp, identityOnPlaintext } from './layers.ts';
import { mtlsPorts, openNamespaces, peerConflicts, rootSelectors } from './peer-authentications.ts';
import { notEnforced, policyPorts, selectors } from './scopes.ts';
import type { PolicyCheck } from './set.ts';
import { shadowedRules } from './shadow.ts';
import { requestPrincipals, tokensNotDemanded, tokensNotVerified } from './tokens.ts';

export const policyChecks: readonly PolicyCheck[] = [
  selectors,
  notEnforced,
  rootSelectors,
  peerConflicts,
  mtlsPorts,
  openNamespaces,
  policyPorts,
  principalForms,
  trustDomains,
  unknownIdentities,
  httpOnTcp,
  identityOnPlaintext,
  httpValues,
  tokensNotVerified,
  tokensNotDemanded,
  requestPrincipals,
  unknownProviders,
  severalProviders,
  providersOnTcp,
  shadowedRules,
];

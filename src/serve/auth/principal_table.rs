//! [`PrincipalTable`]: the principals in force, found by token or certificate, and replaced as a whole.

use std::{collections::HashMap, sync::Arc};

use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio_util::sync::CancellationToken;

use super::principals_file::{ConfiguredCertificateName, PrincipalEntry, TokenHash};
use crate::{
    domain::{
        principal::{Principal, PrincipalName},
        time::Timestamp,
    },
    grpc::CallerIdentity,
    listen::CertificateName,
    store::Credentials,
};

/// Why a call has no principal; for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthenticationFailure {
    NoCredentials,
    Malformed,
    Token,
    Certificate,
    /// The certificate's names belong to several principals.
    Ambiguous,
    Expired,
}

impl AuthenticationFailure {
    pub(super) fn text(self) -> &'static str {
        match self {
            AuthenticationFailure::NoCredentials => "no credentials",
            AuthenticationFailure::Malformed => "the authorization header is not one bearer token",
            AuthenticationFailure::Token => "no principal has this token",
            AuthenticationFailure::Certificate => "no principal has this certificate",
            AuthenticationFailure::Ambiguous => "the certificate stands for several principals",
            AuthenticationFailure::Expired => "the principal's not_after has passed",
        }
    }
}

/// What authenticates a caller as one principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Credential {
    Token(TokenHash),
    Certificate(ConfiguredCertificateName),
}

/// A principal as one of its credentials gives it.
#[derive(Clone)]
struct CredentialEntry {
    principal: Arc<Principal>,
    not_after: Option<Timestamp>,
    /// Cancelled when the credential is removed or its principal changes. Streams and held calls end by it.
    revoked: CancellationToken,
}

/// All principals.
#[derive(Clone, Default)]
pub(super) struct PrincipalTable {
    tokens: Vec<(TokenHash, CredentialEntry)>,
    certificates: HashMap<ConfiguredCertificateName, CredentialEntry>,
}

impl PrincipalTable {
    /// The table of a new file. Credentials that are in both files with the same principal keep their token.
    pub(super) fn replacing(old: &PrincipalTable, entries: Vec<PrincipalEntry>) -> Self {
        let mut table = PrincipalTable::default();
        for PrincipalEntry { principal, tokens, certificate, not_after } in entries {
            let principal = Arc::new(principal);
            let entry = |credential: Credential| {
                let before = old.entry(&credential).filter(|before| before.principal == principal);
                let kept = before.map(|before| before.revoked.clone()).filter(|revoked| !revoked.is_cancelled());
                CredentialEntry { principal: principal.clone(), not_after, revoked: kept.unwrap_or_default() }
            };
            table.tokens.extend(tokens.into_iter().map(|hash| (hash, entry(Credential::Token(hash)))));
            table.certificates.extend(certificate.map(|name| (name.clone(), entry(Credential::Certificate(name)))));
        }
        table
    }

    fn entry(&self, credential: &Credential) -> Option<&CredentialEntry> {
        match credential {
            Credential::Token(hash) => self.tokens.iter().find(|(other, _)| other == hash).map(|(_, entry)| entry),
            Credential::Certificate(name) => self.certificates.get(name),
        }
    }

    fn entries(&self) -> impl Iterator<Item = &CredentialEntry> {
        self.tokens.iter().map(|(_, entry)| entry).chain(self.certificates.values())
    }

    /// Revokes the credentials of this table that `successor` lacks.
    pub(super) fn revoke_missing_from(&self, successor: &PrincipalTable) {
        let credentials = self
            .tokens
            .iter()
            .map(|(hash, entry)| (Credential::Token(*hash), entry))
            .chain(self.certificates.iter().map(|(name, entry)| (Credential::Certificate(name.clone()), entry)));
        for (credential, entry) in credentials {
            // The same credential with other rights counts as removed and added.
            if successor.entry(&credential).is_none_or(|later| later.principal != entry.principal) {
                entry.revoked.cancel();
            }
        }
    }

    /// The names of the principals that may call now, each once.
    pub(super) fn names(&self, now: Timestamp) -> Vec<PrincipalName> {
        let mut names: Vec<_> =
            self.entries().filter(|entry| !entry.is_expired(now)).map(|entry| entry.principal.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Revokes the present calls of a principal. Returns a table in which it can make new ones, and whether it may.
    pub(super) fn revoke_calls_of(&self, name: &str, now: Timestamp) -> (PrincipalTable, bool) {
        let mut next = self.clone();
        let mut is_known = false;
        let entries = next.tokens.iter_mut().map(|(_, entry)| entry).chain(next.certificates.values_mut());
        for entry in entries.filter(|entry| entry.principal.name.as_str() == name) {
            std::mem::take(&mut entry.revoked).cancel();
            is_known |= !entry.is_expired(now);
        }
        (next, is_known)
    }

    /// Revokes principals whose `not_after` has passed.
    pub(super) fn revoke_expired(&self, now: Timestamp) {
        self.entries().filter(|entry| entry.is_expired(now)).for_each(|entry| entry.revoked.cancel());
    }

    /// The number of principals.
    pub(super) fn len(&self) -> usize {
        let names: std::collections::HashSet<_> = self.entries().map(|entry| entry.principal.name.as_str()).collect();
        names.len()
    }

    /// The caller with this token. All tokens are compared, each in constant time, so the duration tells nothing.
    pub(super) fn by_token(&self, hash: &TokenHash, now: Timestamp) -> Result<CallerIdentity, AuthenticationFailure> {
        let mut place = u64::MAX;
        for (index, (known, _)) in (0..).zip(&self.tokens) {
            place.conditional_assign(&index, known.ct_eq(hash));
        }
        let found = usize::try_from(place).ok().and_then(|place| self.tokens.get(place));
        found.ok_or(AuthenticationFailure::Token)?.1.caller(now)
    }

    /// The caller whose certificate has these names.
    pub(super) fn by_certificate(
        &self,
        names: &[CertificateName],
        now: Timestamp,
    ) -> Result<CallerIdentity, AuthenticationFailure> {
        let named = |name: &CertificateName| match name {
            CertificateName::Common(name) | CertificateName::Dns(name) => ConfiguredCertificateName::Name(name.clone()),
            CertificateName::Uri(uri) => ConfiguredCertificateName::Uri(uri.clone()),
        };
        let mut found = names.iter().filter_map(|name| self.certificates.get(&named(name)));
        let first = found.next().ok_or(AuthenticationFailure::Certificate)?;
        if found.any(|other| other.principal != first.principal) {
            return Err(AuthenticationFailure::Ambiguous);
        }
        first.caller(now)
    }
}

impl CredentialEntry {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|end| now >= end)
    }

    fn caller(&self, now: Timestamp) -> Result<CallerIdentity, AuthenticationFailure> {
        if self.is_expired(now) {
            return Err(AuthenticationFailure::Expired);
        }
        let credentials =
            Credentials { revoked: self.revoked.clone(), not_after: self.not_after, ..Credentials::default() };
        Ok(CallerIdentity { principal: self.principal.clone(), credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::principals_file::parse;

    const THEN: Timestamp = Timestamp::from_micros(1_000_000);

    fn table(old: &PrincipalTable, text: &str) -> PrincipalTable {
        let table = PrincipalTable::replacing(old, parse(text).unwrap());
        old.revoke_missing_from(&table);
        table
    }

    fn entry(name: &str, roles: &str, digit: char, more: &str) -> String {
        let hash = String::from(digit).repeat(64);
        format!("[[principal]]\nname = '{name}'\nroles = [{roles}]\ntokens = ['sha256:{hash}']\n{more}\n")
    }

    #[test]
    fn a_token_finds_its_principal_among_many() {
        let text: String =
            ('0'..='9').map(|n| entry(&format!("p{n}"), "'reader'", n, &format!("certificate = 'c{n}'"))).collect();
        let table = table(&PrincipalTable::default(), &text);
        assert_eq!(table.len(), 10);
        for n in 0..10_u8 {
            let caller = table.by_token(&[n << 4 | n; 32], THEN).unwrap();
            assert_eq!(caller.principal.name.as_str(), format!("p{n}"));
            let names = ["x".to_owned(), format!("c{n}")].map(CertificateName::Dns);
            let caller = table.by_certificate(&names, THEN).unwrap();
            assert_eq!(caller.principal.name.as_str(), format!("p{n}"));
        }
        assert_eq!(table.by_token(&[0xaa; 32], THEN).unwrap_err(), AuthenticationFailure::Token);
        let mut near = [0x11; 32];
        near[31] = 0x10;
        assert_eq!(table.by_token(&near, THEN).unwrap_err(), AuthenticationFailure::Token);
        let two = ["c1", "c2"].map(|name| CertificateName::Common(name.to_owned()));
        assert_eq!(table.by_certificate(&two, THEN).unwrap_err(), AuthenticationFailure::Ambiguous);
        assert_eq!(table.by_certificate(&[], THEN).unwrap_err(), AuthenticationFailure::Certificate);
        assert_eq!(PrincipalTable::default().by_token(&[0; 32], THEN).unwrap_err(), AuthenticationFailure::Token);
    }

    #[test]
    fn a_reload_ends_the_calls_of_changed_principals_only() {
        let first = table(
            &PrincipalTable::default(),
            &[entry("a", "'reader'", '1', ""), entry("b", "'reader'", '2', ""), entry("c", "'reader'", '3', "")]
                .concat(),
        );
        let callers = [1, 2, 3].map(|n: u8| first.by_token(&[n << 4 | n; 32], THEN).unwrap());
        // `b` gets another role, `c` another token.
        let second = table(
            &first,
            &[
                entry("a", "'reader'", '1', "not_after = 2100-01-01T00:00:00Z"),
                entry("b", "'admin'", '2', ""),
                entry("c", "'reader'", '4', ""),
            ]
            .concat(),
        );
        assert_eq!(callers.map(|caller| caller.credentials.revoked.is_cancelled()), [false, true, true]);
        assert!(!second.by_token(&[0x22; 32], THEN).unwrap().credentials.revoked.is_cancelled());
        assert_eq!(second.by_token(&[0x33; 32], THEN).unwrap_err(), AuthenticationFailure::Token);
    }

    #[test]
    fn a_principal_after_its_not_after_is_refused_until_it_is_extended() {
        let first = table(&PrincipalTable::default(), &entry("a", "'reader'", '1', "not_after = 1970-01-01T00:00:02Z"));
        let end = Timestamp::from_micros(2_000_000);
        let caller = first.by_token(&[0x11; 32], THEN).unwrap();
        first.revoke_expired(THEN);
        assert!(!caller.credentials.revoked.is_cancelled());
        first.revoke_expired(end);
        assert!(caller.credentials.revoked.is_cancelled());
        assert_eq!(first.by_token(&[0x11; 32], end).unwrap_err(), AuthenticationFailure::Expired);
        let second = table(&first, &entry("a", "'reader'", '1', "not_after = 1970-01-01T00:00:03Z"));
        assert!(!second.by_token(&[0x11; 32], end).unwrap().credentials.revoked.is_cancelled());
    }
}

//! [`PrincipalTable`]: the principals in force, found by token or certificate, and replaced as a whole.

use std::{collections::HashMap, sync::Arc};

use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio_util::sync::CancellationToken;

use super::file::{Entry, NamedCertificate, TokenHash};
use crate::{
    domain::{
        principal::{Principal, PrincipalName},
        time::Timestamp,
    },
    grpc::Caller,
    listen::CertificateName,
    store::Credentials,
};

/// Why a call has no principal; for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    Nothing,
    Malformed,
    Token,
    Certificate,
    /// The certificate's names belong to several principals.
    Ambiguous,
    Expired,
}

impl Unknown {
    pub(super) fn text(self) -> &'static str {
        match self {
            Unknown::Nothing => "no credentials",
            Unknown::Malformed => "the authorization header is not one bearer token",
            Unknown::Token => "no principal has this token",
            Unknown::Certificate => "no principal has this certificate",
            Unknown::Ambiguous => "the certificate stands for several principals",
            Unknown::Expired => "the principal's not_after has passed",
        }
    }
}

/// What authenticates a caller as one principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Credential {
    Token(TokenHash),
    Certificate(NamedCertificate),
}

/// A principal as one of its credentials gives it.
#[derive(Clone)]
struct Member {
    principal: Arc<Principal>,
    not_after: Option<Timestamp>,
    /// Cancelled when the credential is removed or its principal changes. Streams and held calls end by it.
    revoked: CancellationToken,
}

/// All principals.
#[derive(Clone, Default)]
pub(super) struct Table {
    tokens: Vec<(TokenHash, Member)>,
    certificates: HashMap<NamedCertificate, Member>,
}

impl Table {
    /// The table of a new file. Credentials that are in both files with the same principal keep their token.
    pub(super) fn succeeding(old: &Table, entries: Vec<Entry>) -> Self {
        let mut table = Table::default();
        for Entry { principal, tokens, certificate, not_after } in entries {
            let principal = Arc::new(principal);
            let member = |credential: Credential| {
                let before = old.member(&credential).filter(|before| before.principal == principal);
                let going_on = before.map(|before| before.revoked.clone()).filter(|revoked| !revoked.is_cancelled());
                Member { principal: principal.clone(), not_after, revoked: going_on.unwrap_or_default() }
            };
            table.tokens.extend(tokens.into_iter().map(|hash| (hash, member(Credential::Token(hash)))));
            table.certificates.extend(certificate.map(|name| (name.clone(), member(Credential::Certificate(name)))));
        }
        table
    }

    fn member(&self, credential: &Credential) -> Option<&Member> {
        match credential {
            Credential::Token(hash) => self.tokens.iter().find(|(other, _)| other == hash).map(|(_, member)| member),
            Credential::Certificate(name) => self.certificates.get(name),
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.tokens.iter().map(|(_, member)| member).chain(self.certificates.values())
    }

    /// Revokes the credentials of this table that `successor` lacks.
    pub(super) fn end_all_but(&self, successor: &Table) {
        let credentials = self
            .tokens
            .iter()
            .map(|(hash, member)| (Credential::Token(*hash), member))
            .chain(self.certificates.iter().map(|(name, member)| (Credential::Certificate(name.clone()), member)));
        for (credential, member) in credentials {
            // The same credential with other rights counts as removed and added.
            if successor.member(&credential).is_none_or(|later| later.principal != member.principal) {
                member.revoked.cancel();
            }
        }
    }

    /// The names of the principals that may call now, each once.
    pub(super) fn names(&self, now: Timestamp) -> Vec<PrincipalName> {
        let mut names: Vec<_> =
            self.members().filter(|member| !member.is_over(now)).map(|member| member.principal.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Revokes the present calls of a principal. Returns a table in which it can make new ones, and whether it may.
    pub(super) fn without_calls_of(&self, name: &str, now: Timestamp) -> (Table, bool) {
        let mut next = self.clone();
        let mut is_known = false;
        let members = next.tokens.iter_mut().map(|(_, member)| member).chain(next.certificates.values_mut());
        for member in members.filter(|member| member.principal.name.as_str() == name) {
            std::mem::take(&mut member.revoked).cancel();
            is_known |= !member.is_over(now);
        }
        (next, is_known)
    }

    /// Revokes principals whose `not_after` has passed.
    pub(super) fn expire(&self, now: Timestamp) {
        self.members().filter(|member| member.is_over(now)).for_each(|member| member.revoked.cancel());
    }

    /// The number of principals.
    pub(super) fn len(&self) -> usize {
        let names: std::collections::HashSet<_> = self.members().map(|member| member.principal.name.as_str()).collect();
        names.len()
    }

    /// The caller with this token. All tokens are compared, each in constant time, so the duration tells nothing.
    pub(super) fn by_token(&self, hash: &TokenHash, now: Timestamp) -> Result<Caller, Unknown> {
        let mut place = u64::MAX;
        for (index, (known, _)) in (0..).zip(&self.tokens) {
            place.conditional_assign(&index, known.ct_eq(hash));
        }
        let found = usize::try_from(place).ok().and_then(|place| self.tokens.get(place));
        found.ok_or(Unknown::Token)?.1.caller(now)
    }

    /// The caller whose certificate has these names.
    pub(super) fn by_certificate(&self, names: &[CertificateName], now: Timestamp) -> Result<Caller, Unknown> {
        let named = |name: &CertificateName| match name {
            CertificateName::Common(name) | CertificateName::Dns(name) => NamedCertificate::Name(name.clone()),
            CertificateName::Uri(uri) => NamedCertificate::Uri(uri.clone()),
        };
        let mut found = names.iter().filter_map(|name| self.certificates.get(&named(name)));
        let first = found.next().ok_or(Unknown::Certificate)?;
        if found.any(|other| other.principal != first.principal) {
            return Err(Unknown::Ambiguous);
        }
        first.caller(now)
    }
}

impl Member {
    fn is_over(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|end| now >= end)
    }

    fn caller(&self, now: Timestamp) -> Result<Caller, Unknown> {
        if self.is_over(now) {
            return Err(Unknown::Expired);
        }
        let credentials =
            Credentials { revoked: self.revoked.clone(), not_after: self.not_after, ..Credentials::default() };
        Ok(Caller { principal: self.principal.clone(), credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::file::parse;

    const THEN: Timestamp = Timestamp::from_micros(1_000_000);

    fn table(old: &Table, text: &str) -> Table {
        let table = Table::succeeding(old, parse(text).unwrap());
        old.end_all_but(&table);
        table
    }

    fn entry(name: &str, roles: &str, digit: char, more: &str) -> String {
        let hash = String::from(digit).repeat(64);
        format!("[[principal]]\nname = '{name}'\nroles = [{roles}]\ntokens = ['sha256:{hash}']\n{more}\n")
    }

    #[test]
    fn the_right_one_of_many_is_found() {
        let text: String =
            ('0'..='9').map(|n| entry(&format!("p{n}"), "'reader'", n, &format!("certificate = 'c{n}'"))).collect();
        let table = table(&Table::default(), &text);
        assert_eq!(table.len(), 10);
        for n in 0..10_u8 {
            let caller = table.by_token(&[n << 4 | n; 32], THEN).unwrap();
            assert_eq!(caller.principal.name.as_str(), format!("p{n}"));
            let names = ["x".to_owned(), format!("c{n}")].map(CertificateName::Dns);
            let caller = table.by_certificate(&names, THEN).unwrap();
            assert_eq!(caller.principal.name.as_str(), format!("p{n}"));
        }
        assert_eq!(table.by_token(&[0xaa; 32], THEN).unwrap_err(), Unknown::Token);
        let mut near = [0x11; 32];
        near[31] = 0x10;
        assert_eq!(table.by_token(&near, THEN).unwrap_err(), Unknown::Token);
        let two = ["c1", "c2"].map(|name| CertificateName::Common(name.to_owned()));
        assert_eq!(table.by_certificate(&two, THEN).unwrap_err(), Unknown::Ambiguous);
        assert_eq!(table.by_certificate(&[], THEN).unwrap_err(), Unknown::Certificate);
        assert_eq!(Table::default().by_token(&[0; 32], THEN).unwrap_err(), Unknown::Token);
    }

    #[test]
    fn what_is_unchanged_goes_on_and_the_rest_ends() {
        let first = table(
            &Table::default(),
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
        assert_eq!(second.by_token(&[0x33; 32], THEN).unwrap_err(), Unknown::Token);
    }

    #[test]
    fn who_has_run_out_is_refused_and_ended_until_there_is_more_time() {
        let first = table(&Table::default(), &entry("a", "'reader'", '1', "not_after = 1970-01-01T00:00:02Z"));
        let end = Timestamp::from_micros(2_000_000);
        let caller = first.by_token(&[0x11; 32], THEN).unwrap();
        first.expire(THEN);
        assert!(!caller.credentials.revoked.is_cancelled());
        first.expire(end);
        assert!(caller.credentials.revoked.is_cancelled());
        assert_eq!(first.by_token(&[0x11; 32], end).unwrap_err(), Unknown::Expired);
        let second = table(&first, &entry("a", "'reader'", '1', "not_after = 1970-01-01T00:00:03Z"));
        assert!(!second.by_token(&[0x11; 32], end).unwrap().credentials.revoked.is_cancelled());
    }
}

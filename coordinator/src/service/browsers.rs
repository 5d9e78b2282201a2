//! Browsers that signed a person in before: each keeps a token of its own for half a year.
//!
//! It is good for one thing: who has it is slowed down for his own failures alone, not for those of others
//! who try the same name. So nobody who guesses from many addresses keeps a person out of his own browser.
//! It never signs anybody in, and nothing of it is stored: it carries a MAC whose key is the account's
//! second factor, and ends with that.

use super::passcode;
use crate::entropy;
use crate::store::accounts::UserRecord;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meshd_proto::{UnixSeconds, keys};
use zeroize::Zeroizing;

/// Seconds that a browser is remembered after it signed in.
pub const BROWSER_LIFETIME: u64 = 180 * 24 * 3600;
/// Longest token that is looked at; ours have about ninety letters.
const MAX_TOKEN: usize = 120;

/// A token for a browser that just signed this person in.
pub(super) fn issue(user: &UserRecord, now: UnixSeconds) -> Zeroizing<String> {
    let id = URL_SAFE_NO_PAD.encode(entropy::random::<16>());
    let mac = mac(user, &id, now.0);
    Zeroizing::new(format!("{id}.{}.{mac}", now.0))
}

/// The browser's id, when the token is this person's and not too old.
pub(super) fn known(user: &UserRecord, token: &str, now: UnixSeconds) -> Option<String> {
    let mut parts = token.split('.');
    let (id, issued, given) = (parts.next()?, parts.next()?.parse::<u64>().ok()?, parts.next()?);
    let fits = passcode::same(mac(user, id, issued).as_bytes(), given.as_bytes());
    let fresh = issued <= now.0 && now.0 - issued < BROWSER_LIFETIME;
    (fits && fresh && parts.next().is_none()).then(|| id.to_owned())
}

/// Whether it can be a token at all: others cost no look at the database.
pub(super) fn may_be_token(text: &str) -> bool {
    text.len() <= MAX_TOKEN && text.split('.').count() == 3
}

fn mac(user: &UserRecord, id: &str, issued: u64) -> String {
    let parts = [user.totp.0.as_slice(), &user.id.to_be_bytes(), id.as_bytes(), &issued.to_be_bytes()];
    URL_SAFE_NO_PAD.encode(keys::hash("meshd known browser", &parts))
}

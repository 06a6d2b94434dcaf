//! How does an endpoint know that a request is ours, and was not sent before?
//!
//! By the scheme of Standard Webhooks (standardwebhooks.com): `webhook-id` names the message and stays the same when it
//! is sent again, `webhook-timestamp` says when it was sent, and `webhook-signature` is an HMAC-SHA256 over both and the
//! body. With two keys there are two signatures, so that a key can be replaced without a gap.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr, time::SystemTime};

/// The lengths that a key may have, in bytes.
const KEY: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that endpoints know too: `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone)]
pub struct WebhookSecret(hmac::Key);

/// What was given is no key. It is not shown: it may be one with a typing mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no webhook secret: it is whsec_ and 24 to 64 bytes in base64. Try: echo whsec_$(openssl rand -base64 32)")]
pub struct NotASecret;

impl FromStr for WebhookSecret {
    type Err = NotASecret;

    fn from_str(text: &str) -> Result<WebhookSecret, NotASecret> {
        let key = STANDARD.decode(text.trim().strip_prefix("whsec_").ok_or(NotASecret)?).map_err(|_| NotASecret)?;
        if !KEY.contains(&key.len()) {
            return Err(NotASecret);
        }
        Ok(WebhookSecret(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// The three headers of a message that is sent now.
pub(super) fn headers(keys: &[WebhookSecret], id: &str, now: SystemTime, body: &[u8]) -> Vec<(&'static str, String)> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", seconds.to_string())];
    let signatures: Vec<String> = keys.iter().map(|key| signature(key, id, seconds, body)).collect();
    if !signatures.is_empty() {
        headers.push(("webhook-signature", signatures.join(" ")));
    }
    headers
}

fn signature(WebhookSecret(key): &WebhookSecret, id: &str, seconds: u64, body: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(key);
    signed.update(format!("{id}.{seconds}.").as_bytes());
    signed.update(body);
    format!("v1,{}", STANDARD.encode(signed.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn secret(text: &str) -> WebhookSecret {
        text.parse().expect("a secret")
    }

    #[test]
    fn signatures_are_those_that_the_standard_publishes() {
        let key = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330);
        let body = br#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let of = |keys: &[WebhookSecret]| headers(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", now, body);
        assert_eq!(
            of(std::slice::from_ref(&key)),
            [
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".into()),
                ("webhook-timestamp", "1614265330".into()),
                ("webhook-signature", expected.into()),
            ]
        );
        let other = secret("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let both = of(&[other, key]).pop().expect("signatures").1;
        assert!(both.starts_with("v1,") && both.ends_with(&format!(" {expected}")), "{both}");
        assert_eq!(of(&[]).len(), 2, "without a key nothing is signed");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_shown() {
        for wrong in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_",
            "whsec_short",
            "whsec_not base64 at all, but long enough",
            "whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert_eq!(wrong.parse::<WebhookSecret>().err(), Some(NotASecret), "{wrong}");
        }
        assert_eq!(format!("{:?}", secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")), "WebhookSecret(…)");
    }
}

//! Proofs that the password is known.
//!
//! A password itself is only sent where nobody on the way can read along, or encrypted with the server's own key, as
//! `caching_sha2_password` wants it the first time.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

/// How the server wants to be convinced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Native,
    CachingSha2,
    /// The password itself.
    ClearText,
}

impl Method {
    pub(super) fn of(plugin: &str) -> Option<Self> {
        Some(match plugin {
            "mysql_native_password" => Self::Native,
            "caching_sha2_password" => Self::CachingSha2,
            "mysql_clear_password" => Self::ClearText,
            _ => return None,
        })
    }

    pub(super) const fn plugin(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::ClearText => "mysql_clear_password",
        }
    }

    /// What to answer a challenge with; nothing without a password.
    pub(super) fn proof(self, password: &str, challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::ClearText => [password.as_bytes(), &[0]].concat(),
            _ if password.is_empty() => Vec::new(),
            Self::Native => {
                let once = sha1(&[password.as_bytes()]);
                xor(&once, &sha1(&[challenge, &sha1(&[&once])]))
            }
            Self::CachingSha2 => {
                let once = sha256(&[password.as_bytes()]);
                xor(&once, &sha256(&[&sha256(&[&once]), challenge]))
            }
        }
    }
}

fn digest(algorithm: &'static aws_lc_rs::digest::Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    let mut context = Context::new(algorithm);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().to_vec()
}

fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, parts)
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, parts)
}

fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(a, b)| a ^ b).collect()
}

/// A password for the eyes of who has the private key to this public one, in PEM form.
pub(super) fn sealed(password: &str, challenge: &[u8], key: &[u8]) -> Result<Vec<u8>, &'static str> {
    const FAULT: &str = "the server's public key is none";
    let key = SubjectPublicKeyInfoDer::from_pem_slice(key).map_err(|_| FAULT)?;
    let key = PublicEncryptingKey::from_der(&key).map_err(|_| FAULT)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| FAULT)?;
    let secret = [password.as_bytes(), &[0]].concat();
    let mixed = xor(&secret, &challenge.iter().copied().cycle().take(secret.len()).collect::<Vec<u8>>());
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed_len =
        key.encrypt(&OAEP_SHA1_MGF1SHA1, &mixed, &mut sealed, None).map_err(|_| "the password is too long")?.len();
    sealed.truncate(sealed_len);
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server does with a proof: it knows the digest of the digest, takes the challenge off, and digests the rest.
    #[test]
    fn a_proof_convinces_who_knows_the_digest_of_the_digest() {
        let challenge = b"abcdefghijklmnopqrst";
        let proof = Method::Native.proof("secret", challenge);
        let stored = sha1(&[&sha1(&[b"secret"])]);
        assert_eq!(sha1(&[&xor(&proof, &sha1(&[challenge, &stored]))]), stored);
        let proof = Method::CachingSha2.proof("secret", challenge);
        let stored = sha256(&[&sha256(&[b"secret"])]);
        assert_eq!(sha256(&[&xor(&proof, &sha256(&[&stored, challenge]))]), stored);
        assert!(Method::Native.proof("", challenge).is_empty());
        assert_eq!(Method::of("client_ed25519"), None);
    }
}

//! Proofs that the password is known.
//!
//! A password itself is only sent where nobody on the way can read along, or encrypted with the server's own key, as
//! `caching_sha2_password` wants it the first time. The two of MariaDB's that sign have the server keep nothing but a public key:
//! `client_ed25519` takes the password for the secret one, `parsec` derives it slowly and with salt.

use std::num::NonZeroU32;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA512};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::Ed25519KeyPair;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

/// Rounds of the derivation of a key, before the server multiplies them.
const ROUNDS: NonZeroU32 = NonZeroU32::new(1024).expect("they are some");

/// How the server wants to be convinced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Native,
    CachingSha2,
    /// A signature.
    Ed25519,
    /// A signature, with a key that the server says first how to derive.
    Parsec,
    /// The password itself.
    ClearText,
}

impl Method {
    pub(super) fn of(plugin: &str) -> Option<Self> {
        Some(match plugin {
            "mysql_native_password" => Self::Native,
            "caching_sha2_password" => Self::CachingSha2,
            "client_ed25519" => Self::Ed25519,
            "parsec" => Self::Parsec,
            "mysql_clear_password" => Self::ClearText,
            _ => return None,
        })
    }

    pub(super) const fn plugin(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Ed25519 => "client_ed25519",
            Self::Parsec => "parsec",
            Self::ClearText => "mysql_clear_password",
        }
    }

    /// Whether it can be what is tried first: a greeting has a challenge for these.
    pub(super) const fn is_first(self) -> bool {
        matches!(self, Self::Native | Self::CachingSha2)
    }

    /// The challenge in what the server sends with its wish for this method, without what may end it.
    pub(super) fn challenge(self, sent: &[u8]) -> Result<Vec<u8>, &'static str> {
        let len = match self {
            Self::Native | Self::CachingSha2 => 20,
            Self::Ed25519 | Self::Parsec => 32,
            Self::ClearText => 0,
        };
        sent.get(..len).map(<[u8]>::to_vec).ok_or("the server's challenge is too short")
    }

    /// What to answer a challenge with.
    pub(super) fn proof(self, password: &str, challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::ClearText => [password.as_bytes(), &[0]].concat(),
            Self::Ed25519 => signed_with_password(password, challenge),
            // Asks how the key is derived.
            Self::Parsec => Vec::new(),
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

fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    digest(&SHA512, parts).try_into().expect("it has 512 bits")
}

/// A signature by Ed25519 with a password of any length where the standard has a secret key of 32 bytes.
fn signed_with_password(password: &str, message: &[u8]) -> Vec<u8> {
    let (key, prefix) = halves(sha512(&[password.as_bytes()]));
    let key = Scalar::from_bytes_mod_order(clamp_integer(key));
    let public = EdwardsPoint::mul_base(&key).compress();
    let once = Scalar::from_bytes_mod_order_wide(&sha512(&[&prefix, message]));
    let commitment = EdwardsPoint::mul_base(&once).compress();
    let digest = Scalar::from_bytes_mod_order_wide(&sha512(&[commitment.as_bytes(), public.as_bytes(), message]));
    [commitment.to_bytes(), (once + digest * key).to_bytes()].concat()
}

fn halves(bytes: [u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut first, mut second) = ([0; 32], [0; 32]);
    first.copy_from_slice(&bytes[..32]);
    second.copy_from_slice(&bytes[32..]);
    (first, second)
}

/// The answer of `parsec`: a challenge of ours and a signature of both. The server says before how the key follows from the password,
/// as `P | rounds u8 | salt`, some servers behind the 1 of what belongs to a method.
pub(super) fn signed(password: &str, challenge: &[u8], derivation: &[u8]) -> Result<Vec<u8>, &'static str> {
    // More rounds no server asks for, and a false one must not keep us busy.
    let ([b'P', rounds @ 0..=3, salt @ ..] | [1, b'P', rounds @ 0..=3, salt @ ..]) = derivation else {
        return Err("the server derives keys from passwords in a way that is not known");
    };
    let rounds = ROUNDS.saturating_mul(NonZeroU32::MIN.saturating_add((1_u32 << *rounds) - 1));
    let mut seed = [0; 32];
    pbkdf2::derive(PBKDF2_HMAC_SHA512, rounds, salt, password.as_bytes(), &mut seed);
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| "no key follows from the password")?;
    let mut ours = [0; 32];
    rand::fill(&mut ours).map_err(|_| "there are no random numbers to be had")?;
    let signature = key.sign(&[challenge, &ours].concat());
    Ok([ours.as_slice(), signature.as_ref()].concat())
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
    use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};

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
        assert_eq!(Method::of("sha256_password"), None);
    }

    /// With a password of as many bytes as a secret key has, it is the one of everybody else.
    #[test]
    fn a_signature_is_that_of_ed25519_and_any_length_of_password_has_one() {
        let challenge = [7; 32];
        let password = "thirty-two bytes make secret key";
        let standard = Ed25519KeyPair::from_seed_unchecked(password.as_bytes()).unwrap();
        assert_eq!(Method::Ed25519.proof(password, &challenge), standard.sign(&challenge).as_ref());
        for password in ["", "a", &"long".repeat(99)] {
            let (key, _) = halves(sha512(&[password.as_bytes()]));
            let public = EdwardsPoint::mul_base_clamped(key).compress();
            let public = UnparsedPublicKey::new(&ED25519, public.as_bytes());
            public.verify(&challenge, &Method::Ed25519.proof(password, &challenge)).unwrap();
        }
    }

    #[test]
    fn a_server_cannot_have_a_key_derived_for_hours_nor_in_a_way_that_nobody_knows() {
        let salted = |head: [u8; 2]| [head.as_slice(), b"salt of 18 bytes.."].concat();
        let answer = signed("secret", &[7; 32], &salted(*b"P\x01")).unwrap();
        let (ours, signature) = answer.split_at(32);
        let mut seed = [0; 32];
        let rounds = NonZeroU32::new(2048).unwrap();
        pbkdf2::derive(PBKDF2_HMAC_SHA512, rounds, b"salt of 18 bytes..", b"secret", &mut seed);
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, key.public_key());
        public.verify(&[[7; 32].as_slice(), ours].concat(), signature).unwrap();
        for derivation in [salted(*b"P\x04"), salted(*b"P\xff"), salted(*b"Q\x00"), b"P".to_vec(), Vec::new()] {
            assert!(signed("secret", &[7; 32], &derivation).is_err(), "{derivation:?}");
        }
        assert!(Method::Parsec.challenge(&[7; 31]).is_err());
    }
}

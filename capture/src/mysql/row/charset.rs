//! Which character set a collation belongs to, and its text as UTF-8.
//!
//! Most text is UTF-8 or Latin already and is only looked at. The others are decoded by `encoding_rs`, whose tables are
//! those of browsers; character sets that browsers do not have are refused by name rather than guessed.

use std::borrow::Cow;

use encoding_rs::Encoding;

use crate::value::ValueFault;

/// How the bytes of a text are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Charset {
    /// No text at all.
    Binary,
    Ascii,
    /// Of three bytes at most or of four.
    Utf8,
    Utf16,
    Utf16Le,
    Utf32,
    /// Two bytes each, without pairs.
    Ucs2,
    /// One that browsers know, by its name there.
    Known(&'static str),
    /// One that is not read, by its name.
    Refused(&'static str),
}

pub(super) const NOT_TEXT: ValueFault = ValueFault::Special("bytes that are no text in the column's character set");
const REFUSED: ValueFault = ValueFault::Special("text in a character set that is not read");

/// MariaDB gives collations that do not pad the number of their twin and this.
const NOPAD: u32 = 1024;

/// The character set of a collation; none of a number that nobody knows.
pub(crate) fn of_collation(collation: u32) -> Option<Charset> {
    match collation {
        // From 2048 on MariaDB numbers them by character set: 256 each.
        2048..=2559 => Some(Charset::Utf8),
        2560..=2815 => Some(Charset::Ucs2),
        2816..=3071 => Some(Charset::Utf16),
        3072..=3327 => Some(Charset::Utf32),
        NOPAD.. => of_number(collation - NOPAD),
        number => of_number(number),
    }
}

fn of_number(number: u32) -> Option<Charset> {
    use Charset::{Known, Refused};
    Some(match number {
        63 => Charset::Binary,
        11 | 65 => Charset::Ascii,
        33 | 76 | 83 | 192..=223 | 576..=578 => Charset::Utf8,
        45 | 46 | 224..=247 | 255..=323 | 608..=610 => Charset::Utf8,
        35 | 90 | 128..=151 | 159 | 640..=642 => Charset::Ucs2,
        54 | 55 | 101..=124 | 672..=674 => Charset::Utf16,
        56 | 62 => Charset::Utf16Le,
        60 | 61 | 160..=183 | 736..=738 => Charset::Utf32,
        // MySQL's Latin 1 is that of Windows.
        5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => Known("windows-1252"),
        2 | 9 | 21 | 27 | 77 => Known("iso-8859-2"),
        20 | 41 | 42 | 79 => Known("iso-8859-13"),
        30 | 78 => Known("windows-1254"),
        25 | 70 => Known("iso-8859-7"),
        16 | 71 => Known("iso-8859-8"),
        26 | 34 | 44 | 66 | 99 => Known("windows-1250"),
        14 | 23 | 50 | 51 | 52 => Known("windows-1251"),
        57 | 67 => Known("windows-1256"),
        29 | 58 | 59 => Known("windows-1257"),
        18 | 89 => Known("windows-874"),
        36 | 68 => Known("ibm866"),
        39 | 53 => Known("macintosh"),
        7 | 74 => Known("koi8-r"),
        22 | 75 => Known("koi8-u"),
        1 | 84 => Known("big5"),
        24 | 86 | 28 | 87 => Known("gbk"),
        248..=250 => Known("gb18030"),
        19 | 85 => Known("euc-kr"),
        12 | 91 | 97 | 98 => Known("euc-jp"),
        13 | 88 | 95 | 96 => Known("shift_jis"),
        3 | 69 => Refused("dec8"),
        4 | 80 => Refused("cp850"),
        6 | 72 => Refused("hp8"),
        10 | 82 => Refused("swe7"),
        32 | 64 => Refused("armscii8"),
        37 | 73 => Refused("keybcs2"),
        38 | 43 => Refused("macce"),
        40 | 81 => Refused("cp852"),
        92 | 93 => Refused("geostd8"),
        _ => return None,
    })
}

/// A collation of a character set, by the name that the server gives the set.
pub(crate) fn number_of(charset: &str) -> Option<u32> {
    Some(match charset {
        "binary" => 63,
        "ascii" => 11,
        "utf8" | "utf8mb3" => 33,
        "utf8mb4" => 45,
        "ucs2" => 35,
        "utf16" => 54,
        "utf16le" => 56,
        "utf32" => 60,
        "latin1" => 8,
        "latin2" => 9,
        "latin5" => 30,
        "latin7" => 41,
        "greek" => 25,
        "hebrew" => 16,
        "cp1250" => 26,
        "cp1251" => 51,
        "cp1256" => 57,
        "cp1257" => 59,
        "tis620" => 18,
        "cp866" => 36,
        "macroman" => 39,
        "koi8r" => 7,
        "koi8u" => 22,
        "big5" => 1,
        "gb2312" => 24,
        "gbk" => 28,
        "gb18030" => 248,
        "euckr" => 19,
        "ujis" => 12,
        "eucjpms" => 97,
        "sjis" => 13,
        "cp932" => 95,
        "dec8" => 3,
        "cp850" => 4,
        "hp8" => 6,
        "swe7" => 10,
        "armscii8" => 32,
        "keybcs2" => 37,
        "macce" => 38,
        "cp852" => 40,
        "geostd8" => 92,
        _ => return None,
    })
}

impl Charset {
    /// Text as UTF-8; nothing is copied where it is that already.
    #[inline]
    pub(crate) fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, ValueFault> {
        match self {
            Self::Utf8 | Self::Binary => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NOT_TEXT),
            Self::Known(_) if bytes.is_ascii() && self.is_ascii_like() => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NOT_TEXT)
            }
            Self::Known(label) => known(label, bytes),
            Self::Ascii if bytes.is_ascii() => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NOT_TEXT),
            Self::Ascii => Err(NOT_TEXT),
            Self::Utf16 | Self::Ucs2 => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => utf32(bytes),
            Self::Refused(_) => Err(REFUSED),
        }
    }

    /// Of those that browsers know all but one have ASCII in them as it is.
    fn is_ascii_like(self) -> bool {
        self != Self::Known("shift_jis")
    }
}

fn known<'a>(label: &str, bytes: &'a [u8]) -> Result<Cow<'a, str>, ValueFault> {
    let encoding = Encoding::for_label(label.as_bytes()).ok_or(REFUSED)?;
    encoding.decode_without_bom_handling_and_without_replacement(bytes).ok_or(NOT_TEXT)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, ValueFault> {
    let (units, []) = bytes.as_chunks::<2>() else { return Err(NOT_TEXT) };
    let text: Result<String, _> = char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect();
    text.map(Cow::Owned).map_err(|_| NOT_TEXT)
}

fn utf32(bytes: &[u8]) -> Result<Cow<'_, str>, ValueFault> {
    let (units, []) = bytes.as_chunks::<4>() else { return Err(NOT_TEXT) };
    let text: Option<String> = units.iter().map(|bytes| char::from_u32(u32::from_be_bytes(*bytes))).collect();
    text.map(Cow::Owned).ok_or(NOT_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(collation: u32, bytes: &[u8]) -> Result<String, ValueFault> {
        of_collation(collation).unwrap().decode(bytes).map(Cow::into_owned)
    }

    #[test]
    fn a_supplier_is_called_the_same_in_every_character_set() {
        for (collation, bytes) in [
            (45, "Šárka".as_bytes()),
            (33, "Šárka".as_bytes()),
            (2304, "Šárka".as_bytes()),
            (26, b"\x8a\xe1rka"),
            (9, b"\xa9\xe1rka"),
            (54, b"\x01\x60\0\xe1\0r\0k\0a"),
            (56, b"\x60\x01\xe1\0r\0k\0a\0"),
            (60, b"\0\0\x01\x60\0\0\0\xe1\0\0\0r\0\0\0k\0\0\0a"),
        ] {
            assert_eq!(text(collation, bytes).as_deref(), Ok("Šárka"), "{collation}");
        }
        assert_eq!(text(8, b"\x80 5 \xa3").as_deref(), Ok("€ 5 £"), "Latin 1 as MySQL has it");
        assert_eq!(text(28, b"\xb9\xa4").as_deref(), Ok("工"));
        assert_eq!(text(95, b"\x8d\x48\x5c").as_deref(), Ok("工\\"));
        assert_eq!(text(NOPAD + 45, "ä".as_bytes()).as_deref(), Ok("ä"));
    }

    #[test]
    fn bytes_that_are_no_text_and_sets_that_are_not_read_are_not_guessed() {
        for (collation, bytes) in
            [(45, &b"\xff"[..]), (11, b"\x80"), (54, b"\xd8\0"), (60, b"\0\x11\0\0"), (54, b"x"), (28, b"\xff\xff")]
        {
            assert_eq!(text(collation, bytes), Err(NOT_TEXT), "{collation}");
        }
        assert_eq!(text(4, b"x"), Err(REFUSED));
        assert_eq!(of_collation(500), None);
        assert_eq!(of_collation(5000), None);
    }

    #[test]
    fn a_set_of_a_name_has_a_collation_of_that_set() {
        for (name, charset) in [
            ("utf8mb4", Charset::Utf8),
            ("latin1", Charset::Known("windows-1252")),
            ("sjis", Charset::Known("shift_jis")),
        ] {
            assert_eq!(number_of(name).and_then(of_collation), Some(charset), "{name}");
        }
        for name in ["dec8", "cp850", "hp8", "swe7", "armscii8", "keybcs2", "macce", "cp852", "geostd8"] {
            assert_eq!(number_of(name).and_then(of_collation), Some(Charset::Refused(name)));
        }
        assert_eq!(number_of("klingon"), None);
    }

    #[test]
    fn every_name_is_one_that_browsers_know() {
        for collation in 0..4000 {
            if let Some(Charset::Known(label)) = of_collation(collation) {
                assert!(Encoding::for_label(label.as_bytes()).is_some(), "{label}");
            }
        }
    }
}

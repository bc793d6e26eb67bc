//! The server's text of an array becomes JSON text: `{1,NULL,"a b"}` -> `[1,null,"a b"]`.
//!
//! Numbers are JSON numbers digit for digit (NaN and infinities, which JSON lacks, are strings), Booleans are true and
//! false, everything else is a string. Dimensions nest; lower bounds other than 1 (`[0:1]={..}`) are not kept.

use super::kind::ArrayElement;
use crate::value::ValueFault::{self, Malformed};

const FAULT: ValueFault = Malformed("an array has another form");
/// The server's own limit of dimensions.
const DEPTH_MAX: usize = 6;

/// Writes the JSON of an array; `out` is cleared first.
pub(crate) fn json(text: &[u8], element: ArrayElement, delimiter: u8, out: &mut String) -> Result<(), ValueFault> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed("an array is not UTF-8"))?;
    let text = match text.strip_prefix('[') {
        Some(_) => text.split_once('=').ok_or(FAULT)?.1,
        None => text,
    };
    out.clear();
    let mut rest = text;
    let mut depth = 0_usize;
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(FAULT);
            }
            out.push('[');
            rest = inner;
            if !rest.starts_with('}') {
                continue;
            }
        } else {
            rest = put_element(rest, element, delimiter, out)?;
        }
        // Behind an element or an inner array: close what ends here, then go on behind the delimiter.
        while let Some(outer) = rest.strip_prefix('}') {
            depth = depth.checked_sub(1).ok_or(FAULT)?;
            out.push(']');
            rest = outer;
        }
        if rest.is_empty() {
            return if depth == 0 && out.ends_with(']') { Ok(()) } else { Err(FAULT) };
        }
        rest = rest.strip_prefix(char::from(delimiter)).filter(|_| depth > 0).ok_or(FAULT)?;
        out.push(',');
    }
}

/// Writes one element and gives what follows it.
fn put_element<'a>(
    text: &'a str,
    element: ArrayElement,
    delimiter: u8,
    out: &mut String,
) -> Result<&'a str, ValueFault> {
    if let Some(quoted) = text.strip_prefix('"') {
        return put_quoted(quoted, out);
    }
    let len = text.bytes().position(|byte| byte == delimiter || byte == b'}').filter(|len| *len > 0).ok_or(FAULT)?;
    let (value, rest) = text.split_at(len);
    match (value, element) {
        ("NULL", _) => out.push_str("null"),
        ("t", ArrayElement::Bool) => out.push_str("true"),
        ("f", ArrayElement::Bool) => out.push_str("false"),
        (_, ArrayElement::Number) if value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            out.push_str(value);
        }
        _ => {
            out.push('"');
            value.chars().for_each(|character| put_escaped(character, out));
            out.push('"');
        }
    }
    Ok(rest)
}

/// Writes an element up to its closing quote, undoing the server's backslashes.
fn put_quoted<'a>(text: &'a str, out: &mut String) -> Result<&'a str, ValueFault> {
    out.push('"');
    let mut characters = text.chars();
    loop {
        match characters.next().ok_or(FAULT)? {
            '"' => break,
            '\\' => put_escaped(characters.next().ok_or(FAULT)?, out),
            other => put_escaped(other, out),
        }
    }
    out.push('"');
    Ok(characters.as_str())
}

fn put_escaped(character: char, out: &mut String) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        control if u32::from(control) < 0x20 => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let code = control as usize;
            out.push_str("\\u00");
            out.push(char::from(HEX[code >> 4]));
            out.push(char::from(HEX[code & 15]));
        }
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, element: ArrayElement) -> Result<String, ValueFault> {
        let mut out = String::new();
        json(text.as_bytes(), element, b',', &mut out).map(|()| out)
    }

    #[test]
    fn arrays_become_json() {
        use ArrayElement::{Bool, Number, Text};
        for (text, element, wanted) in [
            ("{}", Text, "[]"),
            ("{1,NULL,-2.50,1e-07}", Number, "[1,null,-2.50,1e-07]"),
            ("{NaN,Infinity}", Number, r#"["NaN","Infinity"]"#),
            ("{t,f,NULL}", Bool, "[true,false,null]"),
            (r#"{a,"b c","NULL","q\"\\x",""}"#, Text, r#"["a","b c","NULL","q\"\\x",""]"#),
            ("{{1,2},{3,4}}", Number, "[[1,2],[3,4]]"),
            ("[0:1]={7,8}", Number, "[7,8]"),
            ("{\"a\nb\u{1}\"}", Text, r#"["a\nb\u0001"]"#),
        ] {
            assert_eq!(read(text, element).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_array_is_refused() {
        for text in
            ["", "1", "{", "}", "{1", "{1,}", "{,1}", "{1}}", "{1}x", "{\"a}", "{{1},2", "{{{{{{{1}}}}}}}", "1,2"]
        {
            assert!(read(text, ArrayElement::Text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in r#"[{}\[\]=,"\\a1NUL ]{0,24}"#) {
            let _ = read(&text, ArrayElement::Number);
        }
    }
}

//! Rules for code: how files open, how long they are, what they are called and what must not stand in them.

use crate::refuse;
use crate::tree::{File, files};

/// More does not fit a head; the aim is 400.
const LINES_MAX: usize = 600;
/// Names that say nothing about what is inside, so that everything ends up there.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];

fn rust() -> Vec<File> {
    files().into_iter().filter(File::is_rust).collect()
}

/// The part of a file that only tests see: all of it, or what follows the attribute that opens them.
fn tests_in(file: &File) -> &str {
    let stem = file.path.trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
    let is_test_file = file.path.starts_with("tests/") || file.path.contains("/tests/");
    if is_test_file || stem == "tests" || stem.ends_with("_tests") {
        return &file.text;
    }
    // A module of tests with a file of its own is seen there.
    file.text.find("#[cfg(test)]\nmod tests {").map_or("", |at| &file.text[at..])
}

#[test]
fn every_file_opens_with_what_it_is_and_why() {
    let silent = rust().into_iter().filter(|file| !file.text.starts_with("//!"));
    let breaches: Vec<String> =
        silent.map(|file| format!("{}: open it with //!: what it is, why so", file.path)).collect();
    refuse(&breaches);
}

#[test]
fn no_file_outgrows_a_head() {
    let mut breaches = Vec::new();
    for file in rust() {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            breaches.push(format!("{}: {lines} lines, at most {LINES_MAX}: split it by concept", file.path));
        }
    }
    refuse(&breaches);
}

#[test]
fn no_module_is_named_after_nothing() {
    let mut breaches = Vec::new();
    for file in rust() {
        let mut parts = file.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            breaches.push(format!("{}: {name} says nothing: name the concept", file.path));
        }
    }
    refuse(&breaches);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together from parts, so that this file does not hold what it looks for.
    let banned = [
        (concat!("to", "do!("), "write it, or leave the path out"),
        (concat!("unimple", "mented!("), "write it, or refuse with an error that names the remedy"),
        (concat!("#[ign", "ore"), "a test that does not run proves nothing: mend it or remove it"),
        (concat!("db", "g!("), "log it with its fields, or remove it"),
    ];
    let mut breaches = Vec::new();
    for file in rust() {
        for (text, remedy) in banned {
            breaches.extend(file.places(|line| line.contains(text)).map(|place| format!("{place}: {text}: {remedy}")));
        }
    }
    refuse(&breaches);
}

#[test]
fn no_test_hopes_that_a_pause_is_long_enough() {
    let pause = concat!("sl", "eep(");
    let mut breaches = Vec::new();
    for file in rust() {
        let paused = tests_in(&file).lines().filter(|line| line.contains(pause));
        breaches
            .extend(paused.map(|line| format!("{}: {}: wait on a condition with a deadline", file.path, line.trim())));
    }
    refuse(&breaches);
}

//! What the server's errors mean: weather, or a fact that somebody has to change, and how.

/// What passes by itself: too many connections, a shutdown or a start, a server that is taken out of service, a broken network,
/// locks, somebody who ended the session, a table that was changed since a transaction began, a limit of time.
pub(super) const fn is_weather(code: u16) -> bool {
    matches!(
        code,
        1040 | 1053 | 1077 | 1079 | 1152
            ..=1161 | 1184 | 1203 | 1205 | 1213 | 1226 | 1317 | 1412 | 1927 | 1969 | 3024 | 3032 | 3168 | 3169 | 4031
    )
}

const SAME_NUMBER: &str =
    "another reader or a replica has the same number: set server_id of the source to one that nobody has";

/// What usually helps against an error.
pub(super) fn remedy(code: u16, message: &str) -> Option<&'static str> {
    Some(match code {
        1045 => "check the user name, the password setting and the host that the user may connect from",
        1129 => {
            "have the server forget what it holds against this host: FLUSH HOSTS (MySQL: TRUNCATE performance_schema.host_cache)"
        }
        1130 => "let the user connect from this host: CREATE USER 'name'@'host'",
        1142 | 1143 | 1227 | 1044 => {
            "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT to the user (MariaDB: BINLOG MONITOR)"
        }
        // Of one number it lets the newer session live, whatever its own words for the two are.
        4052 => SAME_NUMBER,
        1236 => of_log(message),
        _ => return None,
    })
}

/// A log that cannot be sent: one number for many reasons, which only the text tells apart.
fn of_log(message: &str) -> &'static str {
    /// What a text holds, and what to do then; the first counts.
    const KNOWN: [(&[&str], &str); 6] = [
        (&["server_uuid/server_id"], SAME_NUMBER),
        (
            &["more GTIDs than", "not in the master's binlog", "strict mode"],
            "the server has another history than the one that was read: have the url lead to one that has all of it, or have \
             `syncline replay --reread` copy this one's tables",
        ),
        (
            &["purged", "too old", "Could not find first log", "could not find next log"],
            "the server no longer has what follows: have `syncline replay --reread` copy the tables again, and keep the log longer",
        ),
        (&["max_allowed_packet"], "raise max_allowed_packet of the server above its largest event, as to 1G"),
        (
            &["GTID_MODE", "not open"],
            "have the server keep its log by GTID again (log_bin, gtid_mode = ON), and read on or have `syncline replay --reread` copy \
             the tables again",
        ),
        (
            &["truncated in the middle", "crc check", "bogus data", "checksum", "I/O error", "read error"],
            "the server cannot read its own log: look at its disk; read another server that has it, or have `syncline replay \
             --reread` copy the tables again",
        ),
    ];
    let holds = |words: &&(&[&str], &str)| words.0.iter().any(|word| message.contains(word));
    KNOWN.iter().find(holds).map_or(
        "look at the server's own log of errors; where it has lost what follows, have `syncline replay --reread` copy the tables again",
        |(_, remedy)| remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_send_its_log_is_not_taken_for_one_that_purged_it() {
        for (message, wanted) in [
            (
                "A replica with the same server_uuid/server_id as this replica has connected to the source",
                "set server_id",
            ),
            ("Cannot replicate because the source purged required binary logs.", "no longer has"),
            (
                "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and required \
                 binlog files have been purged.",
                "no longer has",
            ),
            ("Could not find first log file name in binary log index file", "no longer has"),
            ("Replica has more GTIDs than the source has, using the source's SERVER_UUID.", "another history"),
            (
                "Error: connecting slave requested to start from GTID 0-1-7, which is not in the master's binlog. Since the master's \
                 binlog contains GTIDs with higher sequence numbers, it probably means that the slave has diverged",
                "another history",
            ),
            (
                "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on source",
                "raise max_allowed_packet",
            ),
            ("binlog truncated in the middle of event; consider out of disk space on source", "its own log"),
            ("event read from binlog did not pass crc check", "its own log"),
            (
                "The replication sender thread cannot start in AUTO_POSITION mode: this server has GTID_MODE = OFF",
                "by GTID",
            ),
            ("Binary log is not open", "by GTID"),
            ("Something new", "log of errors"),
        ] {
            let remedy = remedy(1236, message).unwrap_or_default();
            assert!(remedy.contains(wanted), "{message}: {remedy}");
        }
    }

    #[test]
    fn a_server_that_goes_down_or_is_full_is_weather_and_a_wrong_password_is_not() {
        for code in [1040, 1053, 1077, 1158, 1203, 1927, 3032, 3169] {
            assert!(is_weather(code), "{code}");
        }
        for code in [1045, 1129, 1130, 1146, 1227, 1236, 4052] {
            assert!(!is_weather(code), "{code}");
        }
    }
}

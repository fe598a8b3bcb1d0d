//! SQLite databases: the rows of every table, or what a query after `#` asks for.

#[cfg(feature = "sqlite")]
mod rows;

use super::Format;

pub(crate) const FORMAT: Format = Format {
    name: "a SQLite database",
    extensions: &["sqlite", "sqlite3", "db"],
    searched: cfg!(feature = "sqlite"),
    fits: |content| content.head.starts_with(b"SQLite format 3\0"),
    is_surely: |content| content.head.starts_with(b"SQLite format 3\0"),
    #[cfg(feature = "sqlite")]
    open: rows::open,
    #[cfg(not(feature = "sqlite"))]
    open: |content| {
        let message = format!("{} is a SQLite database, which this build does not read", content.path.display());
        Err(cupola_artifact::Error::failed(message)
            .with_hint("build with `--features sqlite`, or export the table as CSV"))
    },
};

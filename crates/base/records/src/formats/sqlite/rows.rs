//! The rows, read by a thread of their own that hands over a few at a time.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cupola_artifact::{Context, Error, Result};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};

use super::super::Stream;
use crate::content::Content;
use crate::{MAX_RECORD_BYTES, Record};

/// Rows that wait to be taken.
const WAITING: usize = 64;

pub(super) fn open(content: Content) -> Result<Stream> {
    let (path, query) = (content.path.clone(), content.query.clone());
    if content.file.is_none() {
        return Err(Error::failed(format!("{} is a packed SQLite database", path.display()))
            .with_hint("unpack it first: a database is read in place"));
    }
    let file = PathBuf::from(path.as_os_str());
    let connection = connect(&file).map_err(|e| damaged(&path, e))?;
    let queries = match query {
        Some(query) => vec![(None, query)],
        None => tables(&connection).map_err(|e| damaged(&path, e))?,
    };
    if queries.is_empty() {
        return Err(Error::failed(format!("{}: the database has no table", path.display())));
    }
    let (sender, receiver) = sync_channel(WAITING);
    let shown = path.clone();
    std::thread::Builder::new()
        .name("sqlite".to_owned())
        .spawn(move || {
            for (table, query) in queries {
                if !rows(&connection, &shown, table.as_deref(), &query, &sender) {
                    return;
                }
            }
        })
        .context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(Rows(receiver)))
}

struct Rows(Receiver<Result<Record>>);

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

/// Opens for reading alone; a file made to do harm finds nothing to do it with.
fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(MAX_RECORD_BYTES).unwrap_or(i32::MAX))?;
    Ok(connection)
}

/// Every table with the query for its rows: no views, which compute, and no virtual tables.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<(Option<String>, String)>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names
        .map(|name| {
            let name = name?;
            let query = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
            Ok((Some(name), query))
        })
        .collect()
}

/// Sends the rows of a query; false when nobody wants more.
fn rows(
    connection: &Connection,
    path: &Path,
    table: Option<&str>,
    query: &str,
    sender: &SyncSender<Result<Record>>,
) -> bool {
    let fail = |e: rusqlite::Error| match table {
        Some(_) => damaged(path, e),
        None => Error::usage(format!("{}: the query `{query}` fails: {e}", path.display()))
            .with_hint("after `#` stands one SELECT, e.g. `file.sqlite#SELECT body AS text FROM posts`"),
    };
    let mut statement = match connection.prepare(query) {
        Ok(statement) if statement.readonly() && statement.column_count() > 0 => statement,
        Ok(_) => {
            let error = Error::usage(format!("{}: `{query}` is not a SELECT", path.display()))
                .with_hint("a database is only read: after `#` stands one SELECT");
            let _ = sender.send(Err(error));
            return false;
        }
        Err(e) => return sender.send(Err(fail(e))).is_ok(),
    };
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = match statement.query([]) {
        Ok(rows) => rows,
        Err(e) => return sender.send(Err(fail(e))).is_ok(),
    };
    let mut line = 0;
    loop {
        let record = match rows.next() {
            Ok(None) => return true,
            Err(e) => {
                let _ = sender.send(Err(fail(e)));
                return false;
            }
            Ok(Some(row)) => {
                line += 1;
                let mut value = Map::new();
                if let Some(table) = table {
                    value.insert("table".to_owned(), table.into());
                }
                for (i, name) in names.iter().enumerate() {
                    value.insert(name.clone(), row.get_ref(i).map_or(Value::Null, json));
                }
                Record { source: path.to_path_buf(), line, value: Value::Object(value) }
            }
        };
        if sender.send(Ok(record)).is_err() {
            return false;
        }
    }
}

/// Bytes that are no UTF-8 become null.
fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(x) => x.into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => std::str::from_utf8(bytes).map_or(Value::Null, Value::from),
    }
}

fn damaged(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::failed(format!("{}: the SQLite database cannot be read: {cause}", path.display()))
        .with_hint("`sqlite3 FILE 'PRAGMA integrity_check'` says what is wrong")
}

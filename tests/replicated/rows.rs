//! What a database holds, to be compared.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

/// Every row of every table, the place in the log among them.
pub(crate) fn rows(dir: &Path) -> Vec<String> {
    let conn = Connection::open_with_flags(dir.join("contact.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let names = |sql: &str| -> Vec<String> {
        conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let tables =
        names("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name");
    let of_table = |table: &String| {
        let mut select = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let columns = select.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let values: Vec<Value> = (0..columns).map(|at| row.get(at)).collect::<Result<_, _>>()?;
            Ok(format!("{table}: {values:?}"))
        };
        select.query_map([], row).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    tables.iter().flat_map(of_table).collect()
}

//! Values as columns and back. A column that cannot be read is an error that names it.

use super::{StoreError, uint};
use crate::model::{Owner, Publishing};
use meshd_proto::netmap::{RecordSet, RecordType, RecordValue, SplitRoute};
use meshd_proto::{Endpoint, Tag, UnixSeconds};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

/// A list of texts as JSON.
pub(super) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|t| t.to_string()).collect();
    serde_json::Value::from(texts).to_string()
}

pub(super) fn read_list<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<Vec<T>, StoreError>
where
    T::Err: Display,
{
    let text: String = row.try_get(column)?;
    let texts: Vec<String> = serde_json::from_str(&text).map_err(|e| StoreError::corrupt(column, e))?;
    texts.iter().map(|t| t.parse().map_err(|e| StoreError::corrupt(column, e))).collect()
}

pub(super) fn read_tags(row: &SqliteRow) -> Result<BTreeSet<Tag>, StoreError> {
    Ok(read_list(row, "tags")?.into_iter().collect())
}

pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T::Err: Display,
{
    let text: String = row.try_get(column)?;
    text.parse().map_err(|e| StoreError::corrupt(column, e))
}

pub(super) fn bytes<const N: usize>(row: &SqliteRow, column: &'static str) -> Result<[u8; N], StoreError> {
    let raw: Vec<u8> = row.try_get(column)?;
    raw.try_into().map_err(|_| StoreError::corrupt(column, format_args!("it is not {N} bytes")))
}

pub(super) fn bytes_or_none<const N: usize>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<[u8; N]>, StoreError> {
    let raw: Option<Vec<u8>> = row.try_get(column)?;
    let fixed = raw
        .map(|r| r.try_into().map_err(|_| StoreError::corrupt(column, format_args!("it is not {N} bytes"))));
    fixed.transpose()
}

pub(super) fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    Ok(uint(row.try_get(column)?))
}

/// A number that has to fit a smaller type.
pub(super) fn small<T: TryFrom<u64>>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    T::try_from(number(row, column)?).map_err(|_| StoreError::corrupt(column, "it is too large"))
}

pub(super) fn time_or_none(row: &SqliteRow, column: &'static str) -> Result<Option<UnixSeconds>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.map(|v| UnixSeconds(uint(v))))
}

/// Issuer, subject and display name; all empty for tagged nodes.
pub(super) fn owner(owner: &Owner) -> (&str, &str, &str) {
    match owner {
        Owner::User { issuer, subject, display } => (issuer, subject, display),
        Owner::Tagged => ("", "", ""),
    }
}

pub(super) fn read_owner(row: &SqliteRow) -> Result<Owner, StoreError> {
    let (issuer, subject): (String, String) = (row.try_get("issuer")?, row.try_get("subject")?);
    if issuer.is_empty() && subject.is_empty() {
        return Ok(Owner::Tagged);
    }
    Ok(Owner::User { issuer, subject, display: row.try_get("display")? })
}

/// `suffix=upstream,upstream` for each split route.
pub(super) fn split(routes: &[SplitRoute]) -> String {
    list(routes.iter().map(|r| {
        let upstreams: Vec<String> = r.upstreams.iter().map(|u| u.0.to_string()).collect();
        format!("{}={}", r.suffix, upstreams.join(","))
    }))
}

pub(super) fn read_split(row: &SqliteRow) -> Result<Vec<SplitRoute>, StoreError> {
    let wrong = |e: &dyn Display| StoreError::corrupt("split", e);
    let texts: Vec<String> = read_list(row, "split")?;
    texts
        .iter()
        .map(|text| {
            let (suffix, rest) = text.split_once('=').ok_or_else(|| wrong(&"no `=`"))?;
            let upstreams = rest.split(',').filter(|u| !u.is_empty());
            Ok(SplitRoute {
                suffix: suffix.parse().map_err(|e| wrong(&e))?,
                upstreams: upstreams
                    .map(|u| u.parse().map(Endpoint).map_err(|e| wrong(&e)))
                    .collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

pub(super) fn read_endpoints(row: &SqliteRow, column: &'static str) -> Result<Vec<Endpoint>, StoreError> {
    Ok(read_list::<std::net::SocketAddr>(row, column)?.into_iter().map(Endpoint).collect())
}

/// What a node publishes, as JSON; nothing is `{}`.
pub(super) fn publishing(publishing: &Publishing) -> String {
    let nothing = || "{}".to_owned();
    if publishing.is_empty() {
        nothing()
    } else {
        serde_json::to_string(publishing).unwrap_or_else(|_| nothing())
    }
}

pub(super) fn read_publishing(row: &SqliteRow) -> Result<Publishing, StoreError> {
    let text: String = row.try_get("publishing")?;
    serde_json::from_str(&text).map_err(|e| StoreError::corrupt("publishing", e))
}

pub(super) fn record_values(set: &RecordSet) -> String {
    list(set.values.iter().map(|v| match v {
        RecordValue::Address(ip) => ip.to_string(),
        RecordValue::Name(name) => name.to_string(),
        RecordValue::Text(text) => text.clone(),
    }))
}

pub(super) fn read_record_values(row: &SqliteRow, kind: RecordType) -> Result<Vec<RecordValue>, StoreError> {
    let column = "contents";
    Ok(match kind {
        RecordType::A | RecordType::Aaaa => {
            read_list(row, column)?.into_iter().map(RecordValue::Address).collect()
        }
        RecordType::Cname => read_list(row, column)?.into_iter().map(RecordValue::Name).collect(),
        _ => read_list(row, column)?.into_iter().map(RecordValue::Text).collect(),
    })
}

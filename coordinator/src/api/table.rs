//! The table of everything the coordinator answers over HTTP: method, path, who may, what it is.
//!
//! A route is added through `Routes` and in no other way (a test reads the source), so each has its
//! row. The authorization matrix and the API's description are made from the rows.

use super::Api;
use crate::service::Permission;
use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Everybody, signed in or not.
    Nothing,
    /// A person who signed in, whatever the role.
    Person,
    /// An actor with that permission.
    May(Permission),
}

/// What kind of client a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Programs: bearer token or unix socket, JSON.
    Api,
    /// People: session cookie, HTML.
    Page,
    /// Both, without asking who is there.
    Open,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Who may.
    pub need: Need,
    /// For whom.
    pub face: Face,
    /// What it does, in one line.
    pub about: &'static str,
}

/// A router that grows together with its table.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) router: Router<Api>,
    pub(crate) rows: Vec<Row>,
    face: Face,
}

impl Routes {
    pub(crate) fn new(face: Face) -> Self {
        Self { router: Router::new(), rows: Vec::new(), face }
    }

    pub(crate) fn get<H, T>(self, path: &'static str, need: Need, about: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::GET, MethodFilter::GET, path, need, about, handler)
    }

    pub(crate) fn post<H, T>(self, path: &'static str, need: Need, about: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::POST, MethodFilter::POST, path, need, about, handler)
    }

    pub(crate) fn put<H, T>(self, path: &'static str, need: Need, about: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::PUT, MethodFilter::PUT, path, need, about, handler)
    }

    pub(crate) fn patch<H, T>(self, path: &'static str, need: Need, about: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::PATCH, MethodFilter::PATCH, path, need, about, handler)
    }

    pub(crate) fn delete<H, T>(self, path: &'static str, need: Need, about: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::DELETE, MethodFilter::DELETE, path, need, about, handler)
    }

    fn add<H, T>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        need: Need,
        about: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.rows.push(Row { method, path, need, face: self.face, about });
        self.router = self.router.route(path, on(filter, handler));
        self
    }
}

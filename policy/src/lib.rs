//! Policy text to compiled filter, and the one verdict

"""The record: engine, tables, and what differs between MySQL, MariaDB and SQLite. SQL drivers are imported only here."""

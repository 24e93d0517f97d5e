//! What peers do that are up to no good, or out of order, and what others feel of it.

mod receipts;

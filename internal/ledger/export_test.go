package ledger

// Alone commits every write by itself: what grouping is measured against.
func (o Options) Alone() Options {
	o.alone = true
	return o
}

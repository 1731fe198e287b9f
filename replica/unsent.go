package replica

// noteUnsent logs, once per column, that a message carries nothing for it. The column keeps its
// value, which may be older than the master's: the master has renamed or dropped the field, or
// Rename or the manifest's map names another one.
func (m *mirror) noteUnsent(column, field string) {
	if m.own[column] {
		return
	}
	if _, told := m.unsent.LoadOrStore(column, true); told {
		return
	}
	m.log.Warn("the master does not send a field that this replica keeps; the column is not kept "+
		"up to date: name the field that it sends (Rename, or map in cqrsync.yaml), or leave the "+
		"column out (Own, or columns)",
		"model", m.model, "column", column, "field", field)
}

package db

import "strings"

// Array writes an array as PostgreSQL reads it: {"a","b",NULL}, with \ before quotes and itself.
type Array struct{ text strings.Builder }

var escapeElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Add adds an element, as the text that the element's type reads.
func (a *Array) Add(element string) {
	a.next()
	a.text.WriteByte('"')
	_, _ = escapeElement.WriteString(&a.text, element) // a Builder never fails
	a.text.WriteByte('"')
}

// AddNull adds a null.
func (a *Array) AddNull() {
	a.next()
	a.text.WriteString("NULL")
}

func (a *Array) next() {
	separator := byte(',')
	if a.text.Len() == 0 {
		separator = '{'
	}
	a.text.WriteByte(separator)
}

// Literal is the array, which must have an element.
func (a *Array) Literal() string { return a.text.String() + "}" }

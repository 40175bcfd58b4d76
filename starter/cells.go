package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// ink is the colour of a cell: an ANSI colour of two digits. They are all of one
// length, since what lays out the columns counts them.
type ink string

const (
	ordinary ink = "39"
	red      ink = "31"
	green    ink = "32"
	yellow   ink = "33"
)

// cell is a field of a table.
type cell struct {
	text string
	// ink is ordinary if it is empty.
	ink ink
}

func (c cell) String() string {
	if c.text == "" {
		return "-"
	}
	return printable(c.text)
}

// writeCells writes columns of the width of their content, in colours if they are
// wanted. Cells come from outside and are made safe for a terminal.
func writeCells(w io.Writer, rows [][]cell, colours bool) error {
	inked := map[int]bool{}
	for _, row := range rows {
		for column, c := range row {
			inked[column] = inked[column] || colours && c.ink != ""
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		texts := make([]string, len(row))
		for column, c := range row {
			texts[column] = c.String()
			if inked[column] {
				texts[column] = c.painted()
			}
		}
		fmt.Fprintln(t, strings.Join(texts, "\t"))
	}
	return t.Flush()
}

func (c cell) painted() string {
	colour := c.ink
	if colour == "" {
		colour = ordinary
	}
	return "\x1b[" + string(colour) + "m" + c.String() + "\x1b[" + string(ordinary) + "m"
}

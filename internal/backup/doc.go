// Package backup holds the domain of Ammonite: what a volume, a run and a
// backup are, what each thing made for them is called, and how failures are
// classed. It is pure: it imports the standard library alone and touches
// nothing outside the process.
package backup

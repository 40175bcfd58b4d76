// Package activities holds the steps of Ammonite's workflows: each one thing
// that can be retried on its own. Control talks to APIs and runs anywhere; Node
// works on the machine that holds the volume's slot.
//
// Every activity is idempotent: what it makes has a name that follows from the
// run, so a retry, also after a success that was reported as a failure, finds
// its own work. Each method says how.
package activities

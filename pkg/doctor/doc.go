// Package doctor examines a cluster and the files of its nodes, and says what is wrong, why it probably is, and what to type next.
//
//	every member that answers ── Gather ──► Evidence ── Diagnose ──► Diagnosis: checks, findings, what could not be looked at
//	a data directory, its node stopped or running ── FindLogs ──► Log ── Validate ──► LogReport: entries checked, verdict, findings
//	                                              └─ Losses ──► what was acknowledged, cut and kept aside
//
// What the room promises:
//   - It changes nothing: no file, no lock, no record.
//   - Diagnose is a function from what was gathered to what it means; it reads no clock and asks nobody. Gather only gathers.
//   - No check passes without evidence. One that could not look says so in Inconclusive, with why and what to type.
//   - Members are compared with each other. Answers that differ because time passed between them are told from those that must
//     never differ: a member is behind only if it still lacks what another one knew a whole look earlier.
//   - Every finding names its subject, the numbers it was made from and their age. Facts that the health report tells too have
//     its codes; the doctor's own are rows of Table, and docs/reference/doctor.md is made from it.
//   - A running node's log may grow while it is read: only what two looks in a row see at the same place is a finding.
package doctor

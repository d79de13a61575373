// Package handover passes a listening socket from one process to the next, so
// that a server is replaced without a moment in which nobody listens.
//
// The older process offers ([Offer.Serve]), the newer takes ([Ask]). What only
// one of them may hold, such as the lock of a data folder, the older gives up
// before it hands the socket over; it goes on accepting until the newer says
// that it does. A newer one that dies on the way leaves the older serving, and
// ready to be asked again.
//
// Whoever may connect to the socket's path may take over: it belongs in a folder
// that only its owner can enter, and the other end must be the same user.
package handover

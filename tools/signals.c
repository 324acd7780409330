/* Signals while a long job runs: handlers only take a note. */
#include "tools/signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stop_signal;
static volatile sig_atomic_t report_wanted;
static bool stops_left_alone;

static void on_stop(int number)
{
	stop_signal = number;
}

static void on_report(int number)
{
	(void)number;
	report_wanted = 1;
}

void signals_leave_stops(void)
{
	stops_left_alone = true;
}

void signals_install(void)
{
	static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
	/* SA_RESETHAND is the sign bit. */
	struct sigaction stop = { .sa_handler = on_stop,
				  .sa_flags = (int)(SA_RESTART | SA_RESETHAND) };
	struct sigaction report = { .sa_handler = on_report, .sa_flags = SA_RESTART }, old;
	size_t i;

	for (i = 0; i < sizeof(stops) / sizeof(stops[0]) && !stops_left_alone; i++)
		if (!sigaction(stops[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(stops[i], &stop, NULL);
	sigaction(SIGUSR1, &report, NULL);
}

bool signals_stop(void)
{
	return stop_signal;
}

bool signals_report_wanted(void)
{
	bool wanted = report_wanted;

	if (wanted)
		report_wanted = 0;
	return wanted;
}

void signals_finish(void)
{
	int number = stop_signal;

	if (!number)
		return;
	signal(number, SIG_DFL);
	raise(number);
}

#!/usr/bin/perl
# apply.pl LIST NAME: put one fault of a list into the tree at hand. The text to be replaced is
# sought in its function with any white space between its words; it must be there exactly once.
# Prints the file that was changed. Exit 1 and a sentence: the fault does not apply.
use strict;
use warnings;

my ($list, $name) = @ARGV;
my ($here, $file, $function, $old, $new) = (0, '', '', '', '');

open(my $in, '<', $list) or die "$list: $!\n";
while (<$in>) {
	if (/^fault (\S+):/) {
		$here = $1 eq $name;
	} elsif ($here && /^in (\S+)(?: (\S+))?/) {
		($file, $function) = ($1, $2 // '');
	} elsif ($here && /^< (.*\n)/) {
		$old .= $1;
	} elsif ($here && /^> (.*\n)/) {
		$new .= $1;
	}
}
close($in);
die "$name: no such fault with a file and a text to be replaced in $list\n" if !$file || !$old;

open($in, '<', $file) or die "$name: $file: $!\n";
my $text = do { local $/; <$in> };
close($in);

# From the line that names the function to the brace that ends it.
my ($from, $to) = (0, length $text);
if ($function) {
	my @found;
	while ($text =~ /^(?:[A-Za-z_][^\n;={}]*[ *])?\Q$function\E\b[^;{}]*\{$|^[^\n]*\b\Q$function\E(?:\[\])? = \{/mg) {
		push @found, $-[0];
	}
	die "$name: $file has no function $function\n" if !@found;
	die "$name: $file has $function more than once\n" if @found > 1;
	$from = $found[0];
	$to = $from + $+[0] if substr($text, $from) =~ /^\};?$/m;
}
my $body = substr($text, $from, $to - $from);
my $sought = join '\s*', map { quotemeta } $old =~ /\w+|[^\w\s]/g;
$sought = "\\b$sought" if $old =~ /^\s*\w/;
$sought .= '\b' if $old =~ /\w\s*$/;
my $times = () = $body =~ /$sought/g;
die "$name: found the text to be replaced $times times in $file"
	. ($function ? ", $function()" : '') . "; it must be there once\n" if $times != 1;
chomp $new;
$body =~ s/$sought/$new/;
substr($text, $from, $to - $from) = $body;
open(my $out, '>', $file) or die "$name: $file: $!\n";
print $out $text;
close($out) or die "$name: $file: $!\n";
print "$file\n";

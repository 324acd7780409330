/*
 * Loading libxml2, and the little that is used of it. The document is somebody else's: it is not large,
 * declares nothing (so that there are no entities), and libxml2 itself keeps to a depth of 256 (2048 in what
 * is longer than 10 MB).
 */
#include "libimg/base/library.h"
#include "libimg/base/xml.h"

#include <errno.h>
#include <libxml/parserInternals.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static struct {
	__typeof__(&xmlInitParser) init;
	__typeof__(&xmlReadMemory) read;
	__typeof__(&xmlFreeDoc) free;
	__typeof__(&xmlDocGetRootElement) root;
	__typeof__(&xmlGetLastError) last_error;
	__typeof__(&xmlResetLastError) reset_error;
	__typeof__(&xmlNewTextChild) add;
	__typeof__(&xmlNodeSetContent) set_content;
	__typeof__(&xmlNodeAddContent) add_content;
	__typeof__(&xmlDocDumpMemoryEnc) print;
	bool complete;
} library;

static void load_library(void)
{
	void *handle = dlopen("libxml2.so.2", RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return;
	library.complete = true;
	IMG_LIBRARY_LOAD(library, handle, init, "xmlInitParser");
	IMG_LIBRARY_LOAD(library, handle, read, "xmlReadMemory");
	IMG_LIBRARY_LOAD(library, handle, free, "xmlFreeDoc");
	IMG_LIBRARY_LOAD(library, handle, root, "xmlDocGetRootElement");
	IMG_LIBRARY_LOAD(library, handle, last_error, "xmlGetLastError");
	IMG_LIBRARY_LOAD(library, handle, reset_error, "xmlResetLastError");
	IMG_LIBRARY_LOAD(library, handle, add, "xmlNewTextChild");
	IMG_LIBRARY_LOAD(library, handle, set_content, "xmlNodeSetContent");
	IMG_LIBRARY_LOAD(library, handle, add_content, "xmlNodeAddContent");
	IMG_LIBRARY_LOAD(library, handle, print, "xmlDocDumpMemoryEnc");
	if (library.complete)
		library.init();
}

static int fail_declarations(struct img_error *err)
{
	return img_fail(err, -EUCLEAN,
			"a document type in the XML, which may declare entities: it is not parsed");
}

static int check_text(const char *text, size_t len, const struct img_xml_rules *rules,
		      struct img_error *err)
{
	if (len > rules->bytes_max)
		return img_fail(err, -EUCLEAN, "%zu bytes of XML, allowed up to %zu", len,
				rules->bytes_max);
	if (memchr(text, 0, len))
		return img_fail(err, -EUCLEAN, "a NUL byte in the XML, expected UTF-8");
	if ((!rules->may_have_a_type && memmem(text, len, "<!DOCTYPE", 9)) ||
	    memmem(text, len, "<!ENTITY", 8))
		return fail_declarations(err);
	return 0;
}

/* Without the full stop's newline that libxml2 ends its sentences with. */
static int fail_parse(struct img_error *err)
{
	const xmlError *e = library.last_error();
	size_t len = e && e->message ? strcspn(e->message, "\n") : 0;

	if (!len)
		return img_fail(err, -EUCLEAN, "not well-formed XML");
	return img_fail(err, -EUCLEAN, "not well-formed XML: line %d: %.*s", e->line,
			(int)(len < 200 ? len : 200), e->message);
}

/* Of a document type at most its name and where it is. */
static bool is_type_allowed(const xmlDtd *type, const struct img_xml_rules *rules)
{
	return !type || (rules->may_have_a_type && !type->children && !type->entities &&
			 !type->pentities);
}

int img_xml_parse(const char *text, size_t len, const struct img_xml_rules *rules, xmlDoc **out,
		  xmlNode **root, struct img_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int flags = XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING;
	int rc = check_text(text, len, rules, err);
	xmlDoc *doc;

	if (rc)
		return rc;
	pthread_once(&once, load_library);
	if (!library.complete)
		return img_fail(err, -ENOPKG,
				"%s need libxml2 (libxml2.so.2), which is not installed", rules->users);
	/* It has limits of its own, of which one may be in the way: 10 MB for a text. */
	if (len > XML_MAX_TEXT_LENGTH)
		flags |= XML_PARSE_HUGE;
	library.reset_error();
	doc = library.read(text, (int)len, NULL, "UTF-8", flags);
	if (!doc)
		return fail_parse(err);
	*root = library.root(doc);
	if (!is_type_allowed(doc->intSubset, rules)) {
		library.free(doc);
		return fail_declarations(err);
	}
	if (!*root) {
		library.free(doc);
		return img_fail(err, -EUCLEAN, "no element in the XML");
	}
	*out = doc;
	return 0;
}

void img_xml_free(xmlDoc *doc)
{
	if (doc)
		library.free(doc);
}

xmlNode *img_xml_find(xmlNode *child, const char *name)
{
	while (child &&
	       (child->type != XML_ELEMENT_NODE || strcmp((const char *)child->name, name) != 0))
		child = child->next;
	return child;
}

static bool is_text(const xmlNode *n)
{
	return n->type == XML_TEXT_NODE || n->type == XML_CDATA_SECTION_NODE;
}

char *img_xml_text(const xmlNode *element)
{
	static const char space[] = " \t\r\n";
	size_t len = 0, at = 0, start;
	char *text;

	for (const xmlNode *n = element->children; n; n = n->next)
		len += is_text(n) ? strlen((const char *)n->content) : 0;
	text = malloc(len + 1);
	if (!text)
		return NULL;
	for (const xmlNode *n = element->children; n; n = n->next) {
		size_t bytes = is_text(n) ? strlen((const char *)n->content) : 0;

		if (bytes)
			memcpy(text + at, n->content, bytes);
		at += bytes;
	}
	text[len] = '\0';
	start = strspn(text, space);
	while (len > start && strchr(space, text[len - 1]))
		len--;
	memmove(text, text + start, len - start);
	text[len - start] = '\0';
	return text;
}

xmlNode *img_xml_add(xmlNode *parent, const char *name, const char *text)
{
	return library.add(parent, NULL, (const xmlChar *)name, (const xmlChar *)text);
}

int img_xml_set(xmlNode *parent, const char *name, const char *text)
{
	xmlNode *e = img_xml_find(parent->children, name);

	if (!e)
		return img_xml_add(parent, name, text) ? 0 : -ENOMEM;
	library.set_content(e, NULL);
	library.add_content(e, (const xmlChar *)text); /* which takes it as it is */
	return e->children ? 0 : -ENOMEM;
}

char *img_xml_print(xmlDoc *doc, size_t *len)
{
	xmlChar *text = NULL;
	int bytes = 0;

	library.print(doc, &text, &bytes, "UTF-8");
	*len = (size_t)bytes;
	return (char *)text; /* libxml2 allocates by malloc() unless it is told otherwise */
}

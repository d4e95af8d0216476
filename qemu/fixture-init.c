/* The init of the fixture's sealed root: dynamically linked, as a real one is, and it says that it ran. */
#include <stdio.h>

int main(void)
{
	puts("sealed init");
	return 0;
}
